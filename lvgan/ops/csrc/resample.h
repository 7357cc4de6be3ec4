// upfirdn2d on a tile of one plane, as phases over shared memory (see tile.h), and one number at a time.
//
// Phases: read the input; filter along x; filter along y. The factors and the most taps of a phase are
// constants. Taps that the filter lacks are skipped, not 0, so that NaN goes no further than the filter.
#pragma once

#include <cstdint>

#include "portable.h"

namespace lvgan {

// A call; f is [taps_y, taps_x], or [taps] for both axes.
struct ResampleCall {
  const void* x;
  const void* bias;  // [channels] or null
  void* y;
  const void* f;
  Kind in, out, tap;
  bool full, flip;
  int64_t planes, channels, stride_n, stride_c, stride_h, stride_w;
  int64_t in_x, in_y, out_x, out_y, up_x, up_y, down_x, down_y, offset_x, offset_y, taps_x, taps_y;
  double gain;

  LVGAN_BOTH int64_t count() const { return planes * out_x * out_y; }
};

LVGAN_BOTH int64_t ceil_quotient(int64_t a, int64_t b) { return a / b + (a % b > 0); }

// --- a tile: one filter for both axes, the same factors --------------------------------------------

// At most U * N taps.
template <int U_, int D_, int N_>
struct ResampleShape {
  static constexpr int U = U_, D = D_, N = N_;
  static constexpr int width = D == 1 ? 64 : 32, height = 32 / D;  // of the output
  static constexpr int in_columns = ((width - 1) * D + U - 1) / U + N;
  static constexpr int in_rows = ((height - 1) * D + U - 1) / U + N;

  template <class A>
  struct Memory {
    A input[in_rows * in_columns];
    A wide[in_rows * width];
    A taps[U * N];  // as a correlation
  };

  static LVGAN_BOTH int64_t tiles_x(const ResampleCall& call) { return (call.out_x + width - 1) / width; }
  static LVGAN_BOTH int64_t tiles_y(const ResampleCall& call) { return (call.out_y + height - 1) / height; }

  // The first input that a tap reaches at output o, and which tap that is.
  static LVGAN_BOTH int first(int o, int offset) {
    const int at = o * D - offset;
    return at / U + (at % U > 0);
  }
  static LVGAN_BOTH int tap(int o, int offset) { return first(o, offset) * U - (o * D - offset); }
};

// The sum over one phase of the taps, from `first` on, of values `step` apart.
template <class S, class A>
LVGAN_BOTH A sum_of_phase(const A* taps, int count, int first, const A* values, int step) {
  A sum = 0;
  LVGAN_LOOP
  for (int j = 0; j < S::N; ++j) {
    if (first + j * S::U < count) sum += taps[first + j * S::U] * values[j * step];
  }
  return sum;
}

template <class S, class A>
LVGAN_BOTH void resample_tile(const Share& share, const ResampleCall& call, int64_t index,
                              typename S::template Memory<A>& memory) {
  const int64_t tiles_x = S::tiles_x(call), tiles = tiles_x * S::tiles_y(call), plane = index / tiles;
  const int left = int(index % tiles % tiles_x) * S::width, top = int(index % tiles / tiles_x) * S::height;
  const int offset_x = int(call.offset_x), offset_y = int(call.offset_y), count = int(call.taps_x);
  const int column = S::first(left, offset_x), line = S::first(top, offset_y);
  const int64_t n = plane / call.channels, c = plane % call.channels;
  const int64_t image = n * call.stride_n + c * call.stride_c;
  const A shift = call.bias ? read_number<A>(call.bias, c, call.in) : A(0);
  const A gain = static_cast<A>(call.gain);

  for (int k = share.begin; k < count; k += share.step) {
    memory.taps[k] = read_number<A>(call.f, call.flip ? k : count - 1 - k, call.tap);
  }
  for (int item = share.begin; item < S::in_rows * S::in_columns; item += share.step) {
    const int i = line + item / S::in_columns, j = column + item % S::in_columns;
    const bool inside = i >= 0 && i < call.in_y && j >= 0 && j < call.in_x;
    const int64_t at = image + i * call.stride_h + j * call.stride_w;
    memory.input[item] = inside ? read_number<A>(call.x, at, call.in) + shift : A(0);
  }
  share.sync();
  for (int item = share.begin; item < S::in_rows * S::width; item += share.step) {
    const int row = item / S::width, o = left + item % S::width;
    const A* from = memory.input + row * S::in_columns + S::first(o, offset_x) - column;
    memory.wide[item] = sum_of_phase<S>(memory.taps, count, S::tap(o, offset_x), from, 1) * gain;
  }
  share.sync();
  for (int item = share.begin; item < S::height * S::width; item += share.step) {
    const int x = item % S::width, o = top + item / S::width;
    if (o >= call.out_y || left + x >= call.out_x) continue;
    const A* from = memory.wide + (S::first(o, offset_y) - line) * S::width + x;
    const A sum = sum_of_phase<S>(memory.taps, count, S::tap(o, offset_y), from, S::width);
    write_number<A>(call.y, (plane * call.out_y + o) * call.out_x + left + x, sum, call.out);
  }
  share.sync();
}

// --- the general path: one number at a time --------------------------------------------------------

template <class A>
LVGAN_BOTH A tap_at(const ResampleCall& call, int64_t ky, int64_t kx) {
  if (!call.flip) ky = call.taps_y - 1 - ky, kx = call.taps_x - 1 - kx;
  if (call.full) return read_number<A>(call.f, ky * call.taps_x + kx, call.tap);
  return read_number<A>(call.f, ky, call.tap) * read_number<A>(call.f, kx, call.tap);
}

template <class A>
LVGAN_BOTH void resample_number(const ResampleCall& call, int64_t index) {
  const int64_t ox = index % call.out_x, oy = index / call.out_x % call.out_y, plane = index / (call.out_x * call.out_y);
  const int64_t n = plane / call.channels, c = plane % call.channels;
  const int64_t image = n * call.stride_n + c * call.stride_c;
  const A shift = call.bias ? read_number<A>(call.bias, c, call.in) : A(0);
  const int64_t begin_y = ceil_quotient(oy * call.down_y - call.offset_y, call.up_y);
  const int64_t begin_x = ceil_quotient(ox * call.down_x - call.offset_x, call.up_x);
  A sum = 0;
  for (int64_t i = begin_y < 0 ? 0 : begin_y; i < call.in_y; ++i) {
    const int64_t ky = i * call.up_y + call.offset_y - oy * call.down_y;
    if (ky >= call.taps_y) break;
    for (int64_t j = begin_x < 0 ? 0 : begin_x; j < call.in_x; ++j) {
      const int64_t kx = j * call.up_x + call.offset_x - ox * call.down_x;
      if (kx >= call.taps_x) break;
      const A value = read_number<A>(call.x, image + i * call.stride_h + j * call.stride_w, call.in) + shift;
      sum += tap_at<A>(call, ky, kx) * value;
    }
  }
  write_number<A>(call.y, index, static_cast<A>(sum * static_cast<A>(call.gain)), call.out);
}

}  // namespace lvgan
