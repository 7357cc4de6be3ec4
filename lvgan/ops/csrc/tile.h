// filtered_lrelu and filtered_mask on a tile of one plane, as phases over shared memory.
//
// One body for both: on CUDA a thread block shares the items of a phase, and `sync` ends it; on the
// CPU one thread has them all, which is how the tests of the CPU prove this arithmetic (they compile
// cpu.cpp with -DLVGAN_TILES). Phases: read the input; upsample along x; go down the columns, with
// the inputs of the vertical upsampling and the unfinished sums of the vertical downsampling in
// registers; downsample along x.
#pragma once

#include <cstdint>

#include "portable.h"

namespace lvgan {

enum class Mode { activate, activate_and_save, mask };

LVGAN_BOTH int floor_quotient(int a, int b) { return a / b - (a % b < 0); }

constexpr int greatest_divisor(int a, int b) { return b == 0 ? a : greatest_divisor(b, a % b); }

constexpr int kMaxTaps = 24;

// One call; offsets and sizes as in upfirdn2d.py. `gain` belongs to the upsampling filter.
template <class A>
struct TileCall {
  const void* x;
  const void* bias;  // [channels] or null
  void* y;
  uint8_t* codes;
  Kind kind;
  bool limited;
  int64_t planes, channels, stride_n, stride_c, stride_h, stride_w, code_pitch;
  int in_x, in_y, high_x, high_y, low_x, low_y;
  int up_x, up_y, down_x, down_y;  // offsets
  int tiles_x, tiles_y;
  A slope, limit;
  const A* fu;  // [taps_u]
  const A* fd;  // [taps_d]
  int taps_u, taps_d;
  bool flip;
  A gain;
};

// Sizes of a tile for one pair of factors. At most NW * U taps up and NA * D down.
template <int U_, int D_, int NW_, int NA_>
struct TileShape {
  static constexpr int U = U_, D = D_, NW = NW_, NA = NA_;
  static constexpr int G = greatest_divisor(U, D), L = U * D / G;
  static constexpr int columns = 128;                              // of the high rate
  static constexpr int width = D == 4 ? 24 : 56;                   // of the output
  static constexpr int height = D == 4 ? 12 : 24;
  static constexpr int steps = ((NA + height - 1) * D + L - 1 + D - 1 + L - 1) / L;
  static constexpr int in_rows = NW - 1 + steps * (L / U);
  static constexpr int in_columns = columns / U + NW;
  static constexpr int part = columns / D + 32 / D;                // of a row cut into D parts, no bank twice
  static constexpr int high_rows = steps * L;
  static constexpr int first = in_rows * in_columns > height * D * part ? in_rows * in_columns : height * D * part;
  static_assert(NW * U <= kMaxTaps && NA * D <= kMaxTaps && width * D % 4 == 0);
  static_assert(width * D + NA * D - 1 + 3 <= columns);

  // Shared memory: `first` holds the input, then the rows of the output before the last phase.
  template <class A>
  struct Memory {
    A first[TileShape::first];
    A wide[in_rows * columns];
    A fu[U * NW], fu_gain[U * NW], fd[D * NA];  // as correlations, padded with zeros
    uint8_t codes[high_rows * columns];
  };
};

// A tile, and where it begins.
template <class S, class A>
struct Tile {
  const TileCall<A>& call;
  int64_t plane;
  int out_x, out_y;  // first output
  int c0;            // first column at the high rate, a multiple of 4
  int q, h;          // first input row and row of the high rate
  int i0;            // first input column

  LVGAN_BOTH Tile(const TileCall<A>& c, int64_t index) : call(c) {
    const int tiles = c.tiles_x * c.tiles_y, at = int(index % tiles);
    plane = index / tiles;
    out_x = at % c.tiles_x * S::width;
    out_y = at / c.tiles_x * S::height;
    c0 = 4 * floor_quotient(out_x * S::D - c.down_x, 4);
    i0 = floor_quotient(c0 - c.up_x + S::U - 1, S::U);
    q = floor_quotient(out_y * S::D - c.down_y - c.up_y + S::U - 1, S::U);
    while (shift_at(q) >= S::G) --q;
    h = c.up_y + S::U * (q - 1) + 1;
  }

  LVGAN_BOTH int shift_at(int row) const {
    const int sum = call.up_y + S::U * (row - 1) + 1 + call.down_y;
    return sum - floor_quotient(sum, S::D) * S::D;
  }
  // Where a step begins in the period of the downsampling filter; the same for every tile.
  LVGAN_BOTH int shift() const { return shift_at(q); }
  LVGAN_BOTH bool last_row() const { return out_y + S::height >= call.low_y; }
  LVGAN_BOTH bool last_column() const { return out_x + S::width >= call.low_x; }
};

template <class A>
LVGAN_BOTH A padded_tap(const A* taps, int count, bool flip, int k) {
  return k < count ? taps[flip ? k : count - 1 - k] : A(0);
}

template <class S, class A>
LVGAN_BOTH void read_taps(const Share& share, const TileCall<A>& call, typename S::template Memory<A>& memory) {
  for (int k = share.begin; k < S::U * S::NW; k += share.step) {
    memory.fu[k] = padded_tap(call.fu, call.taps_u, call.flip, k);
    memory.fu_gain[k] = memory.fu[k] * call.gain;
  }
  for (int k = share.begin; k < S::D * S::NA; k += share.step) {
    memory.fd[k] = padded_tap(call.fd, call.taps_d, call.flip, k);
  }
}

template <int N, class A>
LVGAN_BOTH void to_registers(A (&to)[N], const A* from) {
  LVGAN_LOOP
  for (int k = 0; k < N; ++k) to[k] = from[k];
}

template <class S, class A>
LVGAN_BOTH void read_input(const Share& share, const Tile<S, A>& tile, A* input) {
  const TileCall<A>& call = tile.call;
  const int64_t n = tile.plane / call.channels, c = tile.plane % call.channels;
  const int64_t image = n * call.stride_n + c * call.stride_c;
  const A shift = call.bias ? read_number<A>(call.bias, c, call.kind) : A(0);
  for (int item = share.begin; item < S::in_rows * S::in_columns; item += share.step) {
    const int row = tile.q + item / S::in_columns, column = tile.i0 + item % S::in_columns;
    A value = 0;
    if (row >= 0 && row < call.in_y && column >= 0 && column < call.in_x) {
      value = read_number<A>(call.x, image + row * call.stride_h + column * call.stride_w, call.kind) + shift;
    }
    input[item] = value;
  }
}

template <class S, class A>
LVGAN_BOTH void upsample_rows(const Share& share, const Tile<S, A>& tile, const A* taps, const A* input, A* wide) {
  A fu[S::U * S::NW];
  to_registers(fu, taps);
  constexpr int groups = S::columns / S::U + 1;  // of columns with the same inputs
  for (int item = share.begin; item < S::in_rows * groups; item += share.step) {
    const int row = item / groups, group = item % groups;
    const int last = tile.call.up_x + S::U * (tile.i0 + group) - tile.c0;  // the last column of the group
    A window[S::NW];
    LVGAN_LOOP
    for (int j = 0; j < S::NW; ++j) {
      window[j] = input[row * S::in_columns + group + j];
    }
    LVGAN_LOOP
    for (int k = 0; k < S::U; ++k) {
      A sum = 0;
      LVGAN_LOOP
      for (int j = 0; j < S::NW; ++j) sum += fu[k + j * S::U] * window[j];
      const int column = last - k;
      if (column >= 0 && column < S::columns) wide[row * S::columns + column] = sum;
    }
  }
}

template <class S, class A>
LVGAN_BOTH void read_codes(const Share& share, const Tile<S, A>& tile, uint8_t* codes) {
  const TileCall<A>& call = tile.call;
  for (int item = share.begin; item < S::high_rows * (S::columns / 4); item += share.step) {
    const int row = tile.h + item / (S::columns / 4), byte = tile.c0 / 4 + item % (S::columns / 4);
    uint8_t value = 0;
    if (row >= 0 && row < call.high_y && byte >= 0 && byte < call.code_pitch) {
      value = call.codes[(tile.plane * call.high_y + row) * call.code_pitch + byte];
    }
    codes[item] = value;
  }
}

// Packs the codes of the samples that belong to this tile: those of the rows and columns that the
// next tile does not begin with.
template <class S, class A>
LVGAN_BOTH void write_codes(const Share& share, const Tile<S, A>& tile, const uint8_t* codes) {
  const TileCall<A>& call = tile.call;
  const int own_y = tile.out_y * S::D, own_x = tile.out_x * S::D;
  const int end_y = tile.last_row() ? call.high_y : own_y + S::height * S::D;
  const int end_x = tile.last_column() ? call.high_x : own_x + S::width * S::D;
  for (int item = share.begin; item < S::high_rows * (S::columns / 4); item += share.step) {
    const int local = item / (S::columns / 4), row = tile.h + local, column = item % (S::columns / 4) * 4;
    const int x = tile.c0 + column;
    if (row < own_y || row >= end_y || x < own_x || x >= end_x) continue;
    const uint8_t* four = codes + local * S::columns + column;
    int value = 0;
    for (int i = 0; i < 4; ++i) {
      if (x + i < call.high_x) value |= four[i] << 2 * i;
    }
    call.codes[(tile.plane * call.high_y + row) * call.code_pitch + x / 4] = uint8_t(value);
  }
}

// One sample at the high rate.
template <Mode kMode, class A>
LVGAN_BOTH A treat_sample(A v, A slope, A limit, bool limited, int& code) {
  if constexpr (kMode == Mode::mask) return code == 2 ? v : code == 1 ? v * slope : A(0);
  code = v > 0 ? 2 : 1;
  v = v > 0 ? v : v * slope;
  if (!limited) return v;
  if (!(v < limit && v > -limit)) code = 0;
  v = v > limit ? limit : v;
  return v < -limit ? -limit : v;
}

template <class S, int SHIFT, Mode kMode, class A>
LVGAN_BOTH void filter_columns(const Share& share, const Tile<S, A>& tile, const A* up_taps, const A* down_taps,
                               const A* wide, uint8_t* codes, A* out) {
  const TileCall<A>& call = tile.call;
  A fu[S::U * S::NW], fd[S::D * S::NA];
  to_registers(fu, up_taps);
  to_registers(fd, down_taps);
  for (int column = share.begin; column < S::columns; column += share.step) {
    A window[S::NW], sums[S::NA];
    LVGAN_LOOP
    for (int j = 0; j < S::NW - 1; ++j) window[j + 1] = wide[j * S::columns + column];
    LVGAN_LOOP
    for (int e = 0; e < S::NA; ++e) sums[e] = 0;
    const A* next = wide + (S::NW - 1) * S::columns + column;
    // The first sum to be finished is that of this row of the output, seen from the tile.
    int row = floor_quotient(tile.h + call.down_y, S::D) - (S::NA - 1) - tile.out_y;
    A* target = out + row * S::D * S::part + column % S::D * S::part + column / S::D;
    int sample = 0;
    for (int step = 0; step < S::steps; ++step) {
      LVGAN_LOOP
      for (int r = 0; r < S::L; ++r, ++sample) {
        if (r % S::U == 0) {
          LVGAN_LOOP
          for (int j = 0; j < S::NW - 1; ++j) window[j] = window[j + 1];
          window[S::NW - 1] = *next;
          next += S::columns;
        }
        A v = 0;
        LVGAN_LOOP
        for (int j = 0; j < S::NW; ++j) v += fu[S::U - 1 - r % S::U + j * S::U] * window[j];
        int code = 0;
        if (kMode == Mode::mask) code = codes[sample * (S::columns / 4) + column / 4] >> column % 4 * 2 & 3;
        v = treat_sample<kMode>(v, call.slope, call.limit, call.limited, code);
        if (kMode == Mode::activate_and_save) codes[sample * S::columns + column] = uint8_t(code);
        const int phase = (r + SHIFT) % S::D;
        LVGAN_LOOP
        for (int e = 0; e < S::NA; ++e) sums[e] += fd[phase + (S::NA - 1 - e) * S::D] * v;
        if (phase == S::D - 1) {
          if (row >= 0 && row < S::height) *target = sums[0];
          ++row;
          target += S::D * S::part;
          LVGAN_LOOP
          for (int e = 0; e < S::NA - 1; ++e) sums[e] = sums[e + 1];
          sums[S::NA - 1] = 0;
        }
      }
    }
  }
}

template <class S, class A>
LVGAN_BOTH void downsample_rows(const Share& share, const Tile<S, A>& tile, const A* taps, const A* rows) {
  const TileCall<A>& call = tile.call;
  A fd[S::D * S::NA];
  to_registers(fd, taps);
  const int begin = tile.out_x * S::D - call.down_x - tile.c0;  // 0 to 3
  for (int item = share.begin; item < S::height * S::width; item += share.step) {
    const int row = item / S::width, column = item % S::width;
    if (tile.out_y + row >= call.low_y || tile.out_x + column >= call.low_x) continue;
    const A* from = rows + row * S::D * S::part + column;
    A sum = 0;
    LVGAN_LOOP
    for (int k = 0; k < S::NA * S::D; ++k) {
      const int c = begin + k;  // column D + c at the high rate
      sum += fd[k] * from[c % S::D * S::part + c / S::D];
    }
    const int64_t at = (tile.plane * call.low_y + tile.out_y + row) * call.low_x + tile.out_x + column;
    write_number<A>(call.y, at, sum, call.kind);
  }
}

template <class S, int SHIFT, Mode kMode, class A>
LVGAN_BOTH void filter_tile(const Share& share, const TileCall<A>& call, int64_t index,
                            typename S::template Memory<A>& memory) {
  const Tile<S, A> tile(call, index);
  read_taps<S>(share, call, memory);
  read_input(share, tile, memory.first);
  if (kMode == Mode::mask) read_codes(share, tile, memory.codes);
  share.sync();
  upsample_rows(share, tile, memory.fu_gain, memory.first, memory.wide);
  share.sync();
  filter_columns<S, SHIFT, kMode>(share, tile, memory.fu, memory.fd, memory.wide, memory.codes, memory.first);
  share.sync();
  if (kMode == Mode::activate_and_save) write_codes(share, tile, memory.codes);
  downsample_rows(share, tile, memory.fd, memory.first);
  share.sync();
}

// --- the general path --------------------------------------------------------------------------------

// The nonlinearity of a signal at the high rate, in place, four samples (a byte of codes) at a time.
template <class A>
struct TreatCall {
  A* signal;
  uint8_t* codes;
  int64_t rows, width, code_pitch;
  A slope, limit;
  bool limited;

  LVGAN_BOTH int64_t count() const { return rows * code_pitch; }
};

template <Mode kMode, class A>
LVGAN_BOTH void treat_four(const TreatCall<A>& call, int64_t index) {
  const int64_t row = index / call.code_pitch, x = index % call.code_pitch * 4;
  const int old = kMode == Mode::mask ? call.codes[index] : 0;
  int byte = 0;
  for (int i = 0; i < 4 && x + i < call.width; ++i) {
    A& v = call.signal[row * call.width + x + i];
    int code = old >> 2 * i & 3;
    v = treat_sample<kMode>(v, call.slope, call.limit, call.limited, code);
    byte |= code << 2 * i;
  }
  if (kMode == Mode::activate_and_save) call.codes[index] = uint8_t(byte);
}

}  // namespace lvgan
