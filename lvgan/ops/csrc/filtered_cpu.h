// filtered_lrelu and filtered_mask on the CPU, in one pass over the rows of a plane.
//
// Specialised path: a few input rows at a time are upsampled along x into a ring; then `walk` goes
// down columns, many side by side in vectors, with the inputs of the vertical upsampling filter and
// the unfinished sums of the vertical downsampling filter in registers: what the signal is at the
// high rate never reaches memory. The rows that come out are downsampled along x.
// General path: two Resamplers in a row, one row of the high rate at a time.
#pragma once

#include <array>
#include <type_traits>
#include <utility>

#include "fir.h"
#include "filtered.h"
#include "tile.h"  // Mode

namespace lvgan {

template <class F, int... I>
LVGAN_INLINE void unrolled(F&& f, std::integer_sequence<int, I...>) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
LVGAN_INLINE void unrolled(F&& f) {
  unrolled(static_cast<F&&>(f), std::make_integer_sequence<int, N>{});
}

#ifndef LVGAN_UNROLL_STEPS
#define LVGAN_UNROLL_STEPS
#endif


// Vectors side by side in one walk: enough columns for whole bytes of codes.
template <class A>
constexpr int kAbreast = Vec<A>::lanes == 16 || Vec<A>::lanes < 4 ? 2 : 1;

template <class A>
constexpr int kColumns = kAbreast<A> * Vec<A>::lanes;

// Codes of the columns at bit 0, 1, ... of the two halves, 2 bits each.
LVGAN_INLINE uint64_t join_codes(uint32_t negative, uint32_t kept) {
  return spread_bits(negative) | spread_bits(kept) << 1;
}

template <class A, Mode kMode>
LVGAN_INLINE void treat(V<A> (&v)[kAbreast<A>], uint8_t* codes, int bytes, uint32_t inside, V<A> slope, V<A> limit,
                        bool limited) {
  constexpr int lanes = Vec<A>::lanes;
  constexpr uint32_t all = lanes == 32 ? ~0u : (1u << lanes) - 1;
  if constexpr (kMode == Mode::mask) {
    uint64_t word = 0;
    if (bytes == kColumns<A> / 4) __builtin_memcpy(&word, codes, kColumns<A> / 4);
    else std::memcpy(&word, codes, bytes);
    const uint32_t low = gather_bits(word) & inside, high = gather_bits(word >> 1) & inside & ~low;
    unrolled<kAbreast<A>>([&](auto n) LVGAN_FLAT {
      v[n] = choose<A>(v[n], high >> n * lanes & all, low >> n * lanes & all, slope);
    });
  } else {
    uint32_t kept = 0, reached = 0;
    unrolled<kAbreast<A>>([&](auto n) LVGAN_FLAT {
      const uint32_t above = lanes_above<A>(v[n], V<A>{});
      v[n] = choose<A>(v[n], above, all & ~above, slope);
      kept |= above << n * lanes;
      if (limited) {
        if constexpr (kMode == Mode::activate_and_save) {
          reached |= (all & ~(lanes_above<A>(limit, v[n]) & lanes_above<A>(v[n], -limit))) << n * lanes;
        }
        v[n] = clamped<A>(v[n], limit);
      }
    });
    if constexpr (kMode == Mode::activate_and_save) {
      const uint32_t valid = inside & ~reached;
      const uint64_t word = join_codes(valid & ~kept, valid & kept);
      if (bytes == kColumns<A> / 4) __builtin_memcpy(codes, &word, kColumns<A> / 4);
      else std::memcpy(codes, &word, bytes);
    }
  }
}

// A run of `steps` steps; a step takes L / U input rows to L rows of the high rate and L / D output rows.
template <class A>
struct Walk {
  const A* const* in;    // input rows, upsampled along x; the first NW - 1 precede the first step
  uint8_t* const* codes; // a row for each row of the high rate
  A* const* out;         // where each output row goes
  A* sums;               // [NA][pitch]: unfinished output rows, from one run to the next
  int64_t pitch;
  int64_t steps;
  int64_t width;         // columns of the high rate
  const A* up_taps;      // [U][NW]
  const A* down_taps;    // [D][NA]
  A slope, limit;
  bool limited;
};

template <class A, int U, int D, int NW, int NA, int SHIFT, Mode kMode>
__attribute__((noinline)) void walk(const Walk<A>& run) {
  constexpr int L = U * D / std::gcd(U, D), lanes = Vec<A>::lanes, N = kAbreast<A>;
  const V<A> slope = V<A>{} + run.slope, limit = V<A>{} + run.limit;
  const A* __restrict up_taps = run.up_taps;
  const A* __restrict down_taps = run.down_taps;
  for (int64_t column = 0; column < run.width; column += kColumns<A>) {
    V<A> window[NW][N], sums[NA][N];
    const int64_t left = run.width - column;
    const int bytes = int(std::min<int64_t>(kColumns<A> / 4, (left + 3) / 4));
    const uint32_t inside = left >= 32 ? ~0u : (1u << left) - 1;
    unrolled<NW - 1>([&](auto j) LVGAN_FLAT {
      unrolled<N>([&](auto n) LVGAN_FLAT { window[j + 1][n] = load(run.in[j] + column + n * lanes); });
    });
    unrolled<NA>([&](auto e) LVGAN_FLAT {
      unrolled<N>([&](auto n) LVGAN_FLAT { sums[e][n] = load(run.sums + e * run.pitch + column + n * lanes); });
    });
    const A* const* in = run.in + (NW - 1);
    uint8_t* const* codes = run.codes;
    A* const* out = run.out;
    const int64_t at = column / 4;
LVGAN_UNROLL_STEPS
    for (int64_t step = 0; step < run.steps; ++step) {
      unrolled<L>([&](auto r) LVGAN_FLAT {
        if constexpr (r % U == 0) {
          unrolled<NW - 1>([&](auto j) LVGAN_FLAT { unrolled<N>([&](auto n) { window[j][n] = window[j + 1][n]; }); });
          unrolled<N>([&](auto n) LVGAN_FLAT { window[NW - 1][n] = load(*in + column + n * lanes); });
          ++in;
        }
        V<A> v[N] = {};
        unrolled<NW>([&](auto j) LVGAN_FLAT {
          const A tap = up_taps[(r % U) * NW + j];
          unrolled<N>([&](auto n) LVGAN_FLAT { v[n] += window[j][n] * tap; });
        });
        treat<A, kMode>(v, kMode == Mode::activate ? nullptr : *codes++ + at, bytes, inside, slope, limit, run.limited);
        constexpr int phase = (r + SHIFT) % D;
        unrolled<NA>([&](auto e) LVGAN_FLAT {
          const A tap = down_taps[phase * NA + e];
          unrolled<N>([&](auto n) LVGAN_FLAT { sums[e][n] += v[n] * tap; });
        });
        if constexpr (phase == D - 1) {
          A* target = *out++ + column;
          unrolled<N>([&](auto n) LVGAN_FLAT { store(target + n * lanes, sums[0][n]); });
          unrolled<NA - 1>([&](auto e) LVGAN_FLAT { unrolled<N>([&](auto n) { sums[e][n] = sums[e + 1][n]; }); });
          unrolled<N>([&](auto n) LVGAN_FLAT { sums[NA - 1][n] = V<A>{}; });
        }
      });
    }
    unrolled<NA>([&](auto e) LVGAN_FLAT {
      unrolled<N>([&](auto n) LVGAN_FLAT { store(run.sums + e * run.pitch + column + n * lanes, sums[e][n]); });
    });
  }
}

// The walks for one pair of factors: one for each place that a step can have in a period of `down`.
template <class A>
struct Walks {
  int up, down, window, sums;
  void (*at[2])(const Walk<A>&);
};

template <class A, int U, int D, int NW, int NA, Mode kMode>
constexpr Walks<A> walks_of() {
  return {U, D, NW, NA, {walk<A, U, D, NW, NA, 0, kMode>, walk<A, U, D, NW, NA, std::gcd(U, D) - 1, kMode>}};
}

// The walks for this call, if there are any (`up` is 0 if not).
template <class A, Mode kMode>
Walks<A> find_walks(const Filtered<A>& op) {
  const int64_t up = op.up_y.up, down = op.down_y.down;
  if (!op.fu_full && !op.fd_full) {
    if (up == 1 && down == 1 && op.up_y.taps == 1 && op.down_y.taps == 1) return walks_of<A, 1, 1, 1, 1, kMode>();
    const bool six = op.up_y.taps <= 6 * up && op.down_y.taps <= 6 * down;
    if (six && up == 2 && down == 2) return walks_of<A, 2, 2, 6, 6, kMode>();
    if (six && up == 4 && down == 2) return walks_of<A, 4, 2, 6, 6, kMode>();
    if (six && up == 2 && down == 4) return walks_of<A, 2, 4, 6, 6, kMode>();
  }
  return {0, 0, 0, 0, {nullptr, nullptr}};
}

// Computes the rows [begin, end) of the output of one plane after another.
template <class A>
class SpecialTask {
 public:
  SpecialTask(const Filtered<A>& op, const Walks<A>& walks, Mode mode)
      : op_(op),
        walks_(walks),
        mode_(mode),
        U(walks.up),
        D(walks.down),
        NW(walks.window),
        NA(walks.sums),
        L(std::lcm(U, D)),
        run_(L >= 4 ? 16 : 32),
        rows_up_(op.up_x, op.fu_x.data()),
        rows_down_(op.down_x, op.fd_x.data()),
        pitch_(row_pitch(op.high_x)),
        slots_(run_ * (L / U) + NW),
        up_taps_(U * NW, A(0)),
        down_taps_(D * NA, A(0)),
        in_(slots_),
        out_(run_ * (L / D)),
        code_rows_(run_ * L),
        ring_(slots_ * pitch_),
        zero_(pitch_),
        results_((run_ * (L / D) + 1) * pitch_),
        sums_(NA * pitch_),
        line_(row_pitch(op.down_x.outputs)),
        codes_(pitch_) {
    for (int64_t r = 0; r < U; ++r) {
      for (int64_t j = 0; j < NW; ++j) {
        const int64_t k = U - 1 - r + j * U;
        if (k < op.up_y.taps) up_taps_[r * NW + j] = op.fu_y[k];
      }
    }
    for (int64_t phase = 0; phase < D; ++phase) {
      for (int64_t e = 0; e < NA; ++e) {
        const int64_t k = phase + (NA - 1 - e) * D;
        if (k < op.down_y.taps) down_taps_[phase * NA + e] = op.fd_y[k];
      }
    }
  }

  void run(int64_t plane, int64_t begin, int64_t end, bool last) {
    const Axis& down = op_.down_y;
    // A step begins where a new input row comes in: row h of the high rate, input row q. Begin as
    // late as the first output row allows, at one of the places that there are walks for.
    const auto start = [&](int64_t input) { return op_.up_y.offset + U * (input - 1) + 1; };
    int64_t q = floor_div(begin * D - down.offset - op_.up_y.offset + U - 1, U);
    while (modulo(start(q) + down.offset, D) >= std::gcd(U, D)) --q;
    int64_t h = start(q), output = floor_div(h + down.offset, D) - (NA - 1);
    const int64_t shift = modulo(h + down.offset, D);
    int64_t stop = (end - 1) * D - down.offset + NA * D;
    if (last && mode_ == Mode::activate_and_save) stop = std::max(stop, op_.high_y);
    own_begin_ = begin * D, own_end_ = last ? op_.high_y : end * D;

    std::fill_n(sums_.get(), NA * pitch_, A(0));
    A* const spare = results_.get() + int64_t(out_.size()) * pitch_;
    for (int64_t j = 0; j < NW - 1; ++j) in_[j] = input(plane, q + j);
    int64_t next = q + NW - 1;
    for (int64_t left = ceil_div(stop - h, L); left > 0; left -= run_) {
      const int64_t steps = std::min(run_, left), inputs = steps * (L / U), outputs = steps * (L / D);
      for (int64_t j = 0; j < inputs; ++j) in_[NW - 1 + j] = input(plane, next++);
      if (mode_ != Mode::activate) {
        for (int64_t j = 0; j < steps * L; ++j, ++h) code_rows_[j] = code_row(plane, h);
      }
      for (int64_t j = 0; j < outputs; ++j) {
        const bool wanted = output + j >= begin && output + j < end;
        out_[j] = wanted ? results_.get() + j * pitch_ : spare;
      }
      walks_.at[shift]({in_.data(), code_rows_.data(), out_.data(), sums_.get(), pitch_, steps, op_.high_x,
                        up_taps_.data(), down_taps_.data(), op_.slope, op_.limit, op_.limited});
      for (int64_t j = 0; j < outputs; ++j, ++output) {
        if (out_[j] != spare) finish(plane, output, out_[j]);
      }
      std::copy(in_.begin() + inputs, in_.begin() + inputs + NW - 1, in_.begin());
    }
  }

 private:
  // Input row i of the vertical filter: upsampled along x; zeros outside the signal.
  const A* input(int64_t plane, int64_t i) {
    if (i < 0 || i >= op_.up_y.inputs) return zero_.get();
    const RowPlan& plan = rows_up_.plan;
    op_.read(plane, i, plan.from, plan.to, rows_up_.parts() + (plan.from - plan.begin));
    A* slot = ring_.get() + (i % slots_) * pitch_;
    rows_up_.run(slot);
    return slot;
  }

  // Where the codes of row h are; a spare row of zeros outside the signal, and for rows whose codes
  // another task writes.
  uint8_t* code_row(int64_t plane, int64_t h) {
    if (h < 0 || h >= op_.high_y) return codes_.get();
    if (mode_ == Mode::activate_and_save && (h < own_begin_ || h >= own_end_)) return codes_.get();
    return op_.codes + (plane * op_.high_y + h) * op_.code_pitch;
  }

  void finish(int64_t plane, int64_t o, const A* row) {
    rows_down_.plan.cut(rows_down_.parts(), row + rows_down_.plan.from);
    rows_down_.run(line_.get());
    op_.write(plane, o, line_.get());
  }

  const Filtered<A>& op_;
  const Walks<A> walks_;
  const Mode mode_;
  const int64_t U, D, NW, NA, L;
  const int64_t run_;  // steps of one walk: few, so that its rows stay in the cache
  RowFilter<A> rows_up_, rows_down_;
  const int64_t pitch_, slots_;
  std::vector<A> up_taps_, down_taps_;
  std::vector<const A*> in_;
  std::vector<A*> out_;
  std::vector<uint8_t*> code_rows_;
  Buffer<A> ring_, zero_, results_, sums_, line_;
  Buffer<uint8_t> codes_;
  int64_t own_begin_ = 0, own_end_ = 0;
};

template <class A>
class GeneralTask {
 public:
  GeneralTask(const Filtered<A>& op, Mode mode)
      : op_(op),
        mode_(mode),
        up_(op.up_x, op.up_y, op.fu_x.data(), op.fu_y.data(), op.fu_full),
        down_(op.down_x, op.down_y, op.fd_x.data(), op.fd_y.data(), op.fd_full) {
    high_ = Buffer<A>(row_pitch(op.high_x));
    result_ = Buffer<A>(row_pitch(op.down_x.outputs));
  }

  void run(int64_t plane, int64_t begin, int64_t end, bool last) {
    const int64_t D = op_.down_y.down, own_begin = begin * D, own_end = last ? op_.high_y : end * D;
    up_.restart();
    down_.restart();
    const auto source = [&](int64_t i, A* row) { op_.read(plane, i, up_.plan().from, up_.plan().to, row); };
    int64_t next = 0;
    const auto high = [&](int64_t h) {
      up_.row(h, high_.get(), source);
      next = h + 1;
      uint8_t* codes = mode_ == Mode::activate ? nullptr : op_.codes + (plane * op_.high_y + h) * op_.code_pitch;
      if (mode_ == Mode::mask) treat_row<Mode::mask>(codes);
      else if (mode_ == Mode::activate || h < own_begin || h >= own_end) treat_row<Mode::activate>(codes);
      else treat_row<Mode::activate_and_save>(codes);
    };
    const auto middle = [&](int64_t h, A* row) {
      high(h);
      const RowPlan& plan = down_.plan();
      std::copy(high_.get() + plan.from, high_.get() + plan.to, row);
    };
    for (int64_t o = begin; o < end; ++o) {
      if (mode_ == Mode::activate_and_save) {  // rows between those that the outputs need have codes too
        const int64_t first = op_.down_y.first(o);
        for (int64_t h = std::max(next, own_begin); h < std::min(first, own_end); ++h) high(h);
      }
      down_.row(o, result_.get(), middle);
      op_.write(plane, o, result_.get());
    }
    if (mode_ == Mode::activate_and_save) {
      for (int64_t h = std::max(next, own_begin); h < own_end; ++h) high(h);
    }
  }

 private:
  template <Mode kNow>
  void treat_row(uint8_t* codes) {
    const V<A> slope = V<A>{} + op_.slope, limit = V<A>{} + op_.limit;
    for (int64_t column = 0; column < op_.high_x; column += kColumns<A>) {
      const int64_t left = op_.high_x - column;
      V<A> v[kAbreast<A>];
      for (int n = 0; n < kAbreast<A>; ++n) v[n] = load(high_.get() + column + n * Vec<A>::lanes);
      treat<A, kNow>(v, kNow == Mode::activate ? nullptr : codes + column / 4,
                     int(std::min<int64_t>(kColumns<A> / 4, (left + 3) / 4)), left >= 32 ? ~0u : (1u << left) - 1,
                     slope, limit, op_.limited);
      for (int n = 0; n < kAbreast<A>; ++n) store(high_.get() + column + n * Vec<A>::lanes, v[n]);
    }
  }

  const Filtered<A>& op_;
  const Mode mode_;
  Resampler<A> up_, down_;
  Buffer<A> high_, result_;
};

}  // namespace lvgan
