// upfirdn2d by a factor of 2 with 4 taps on the CPU: along both axes, or along columns alone.
//
// What the networks resample with, at frames so small that the rings and copies of the general way cost more
// than the sums. Downsampled, an output row is a sum of input rows where they lie, then filtered along itself;
// upsampled, it is a sum of two input rows that were filtered before, each once.
#pragma once

#include "upfirdn2d_cpu.h"

namespace lvgan {

inline bool is_twofold(const Axis& axis) {
  return axis.taps == 4 && axis.up * axis.down == 2 && axis.outputs > 0 && axis.inputs > 0;
}

inline bool is_untouched(const Axis& axis) {
  return axis.taps == 1 && axis.up == 1 && axis.down == 1 && axis.offset == 0 && axis.inputs == axis.outputs;
}

// Whether TwofoldTask can do it; if so it does it exactly: no tap meets a number that it does not reach.
template <class A>
bool fits_twofold(const Upfirdn<A>& op) {
  const bool columns = op.full && is_untouched(op.axis_x);
  return op.rows.size == sizeof(A) && is_twofold(op.axis_y) && (columns || (!op.full && is_twofold(op.axis_x)));
}

template <class A>
void sum_2(A* __restrict out, const A* __restrict a, const A* __restrict b, const A* c, int64_t n) {
  const A c0 = c[0], c1 = c[1];
  for (int64_t i = 0; i < n; ++i) out[i] = c0 * a[i] + c1 * b[i];
}

template <class A>
void sum_4(A* __restrict out, const A* const* p, const A* taps, int64_t n) {
  const A c0 = taps[0], c1 = taps[1], c2 = taps[2], c3 = taps[3];
  const A *__restrict a = p[0], *__restrict b = p[1], *__restrict c = p[2], *__restrict d = p[3];
  for (int64_t i = 0; i < n; ++i) out[i] = (c0 * a[i] + c1 * b[i]) + (c2 * c[i] + c3 * d[i]);
}

template <class A>
void halve_row(A* __restrict out, const A* __restrict p, const A* taps, int64_t n) {
  const A c0 = taps[0], c1 = taps[1], c2 = taps[2], c3 = taps[3];
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (c0 * p[2 * i] + c1 * p[2 * i + 1]) + (c2 * p[2 * i + 2] + c3 * p[2 * i + 3]);
  }
}

template <class A>
void double_row(A* __restrict out, const A* __restrict p, const A* __restrict q, const A* even, const A* odd,
                int64_t n) {
  const A a0 = even[0], a1 = even[1], b0 = odd[0], b1 = odd[1];
  for (int64_t i = 0; i < n / 2; ++i) {
    out[2 * i] = a0 * p[i] + a1 * p[i + 1];
    out[2 * i + 1] = b0 * q[i] + b1 * q[i + 1];
  }
  if (n % 2) out[n - 1] = a0 * p[n / 2] + a1 * p[n / 2 + 1];
}

template <class A>
class TwofoldTask {
 public:
  explicit TwofoldTask(const Upfirdn<A>& op) : op_(op), x_(op.axis_x), y_(op.axis_y) {
    const A* taps_y = op.full ? op.taps_x.data() : op.taps_y.data();
    for (int r = 0; r < 2; ++r) split(y_, taps_y, r, y_taps_[r]);
    int64_t begin = 0, end = x_.inputs;  // of the row with the zeros that taps reach beside it
    if (!op.full) {
      for (int r = 0; r < 2; ++r) split(x_, op.taps_x.data(), r, x_taps_[r]);
      begin = std::min<int64_t>(begin, x_.first(0));
      end = std::max(end, x_.first(x_.outputs - 1) + 4);
    }
    line_ = Buffer<A>(end - begin);
    start_ = -begin;
    zeros_ = Buffer<A>(std::max(x_.inputs, x_.outputs));
    if (!op.full && y_.up == 2) filtered_ = Buffer<A>(2 * x_.outputs);
  }

  void run(int64_t plane, int64_t begin, int64_t end, bool) const {
    const A* image = reinterpret_cast<const A*>(op_.x) + plane / op_.channels * op_.stride_n +
                     plane % op_.channels * op_.stride_c;
    A* out = reinterpret_cast<A*>(op_.y) + (plane * y_.outputs + begin) * x_.outputs;
    int64_t held[] = {-1, -1};
    for (int64_t o = begin; o < end; ++o, out += x_.outputs) {
      if (op_.full) {
        sum_rows(out, image, o);
      } else if (y_.down == 2) {
        sum_rows(line_.get() + start_, image, o);
        filter_row(out);
      } else {
        const int64_t i = y_.first(o);
        const A* p = filtered(image, i, held);
        sum_2(out, p, filtered(image, i + 1, held), y_taps_[o % 2], x_.outputs);
      }
    }
  }

 private:
  // The taps of output phase r: all 4, or every second one.
  static void split(const Axis& axis, const A* taps, int64_t r, A* target) {
    const int64_t tap = axis.down == 2 ? 0 : axis.tap(r);
    for (int j = 0; j < 4 / axis.up; ++j) target[j] = taps[tap + j * axis.up];
  }

  const A* row(const A* image, int64_t i) const {
    return i >= 0 && i < y_.inputs ? image + i * op_.stride_h : zeros_.get();
  }

  // Input row i, filtered along itself; `held` says which two are there.
  const A* filtered(const A* image, int64_t i, int64_t* held) const {
    if (i < 0 || i >= y_.inputs) return zeros_.get();
    A* target = filtered_.get() + i % 2 * x_.outputs;
    if (held[i % 2] != i) {
      std::copy(image + i * op_.stride_h, image + i * op_.stride_h + x_.inputs, line_.get() + start_);
      filter_row(target);
      held[i % 2] = i;
    }
    return target;
  }

  void sum_rows(A* out, const A* image, int64_t o) const {
    const int64_t i = y_.first(o);
    if (y_.up == 2) return sum_2(out, row(image, i), row(image, i + 1), y_taps_[o % 2], x_.inputs);
    const A* rows[] = {row(image, i), row(image, i + 1), row(image, i + 2), row(image, i + 3)};
    sum_4(out, rows, y_taps_[0], x_.inputs);
  }

  void filter_row(A* out) const {
    const A* p = line_.get() + start_ + x_.first(0);
    if (x_.down == 2) return halve_row(out, p, x_taps_[0], x_.outputs);
    double_row(out, p, line_.get() + start_ + x_.first(1), x_taps_[0], x_taps_[1], x_.outputs);
  }

  const Upfirdn<A>& op_;
  Axis x_, y_;
  A x_taps_[2][4], y_taps_[2][4];  // by output phase
  int64_t start_;
  Buffer<A> line_, zeros_, filtered_;
};

}  // namespace lvgan
