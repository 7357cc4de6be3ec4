// FIR filters along one axis, on the CPU.
//
// Everything is one sum, sum over j of c[j] * p[j][m] for m = 0, 1, ...: along a column p[j] are
// rows; along a row they are the same row from different places, after it was cut into `step`
// interleaved parts. The inserted zeros of an upsampled signal are never touched.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "vec.h"

namespace lvgan {

constexpr int64_t kSlack = 256;  // elements past the end of every row that may be read or written

inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
inline int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
inline int64_t modulo(int64_t a, int64_t b) { return a - floor_div(a, b) * b; }

// Zeroed memory, aligned to a cache line.
template <class A>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) {
    const size_t bytes = (size_t(std::max<int64_t>(size, 1)) * sizeof(A) + 63) / 64 * 64;
    data_.reset(static_cast<A*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }
  A* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(A* p) const { std::free(p); }
  };
  std::unique_ptr<A, Free> data_;
};

inline int64_t row_pitch(int64_t width) { return (width + kSlack + 15) / 16 * 16; }

template <class A, int kTerms>
inline void sum_of(A* __restrict out, const A* c, const A* const* p, int terms, int64_t count) {
  constexpr int lanes = Vec<A>::lanes;
  const int n = kTerms > 0 ? kTerms : terms;
  for (int64_t m = 0; m < count; m += 4 * lanes) {
    if (m + 2 * lanes >= count) {  // the rest
      V<A> s0 = {}, s1 = {};
#pragma GCC unroll 12
      for (int j = 0; j < n; ++j) {
        const A* q = p[j] + m;
        s0 += load(q) * c[j];
        s1 += load(q + lanes) * c[j];
      }
      store(out + m, s0);
      store(out + m + lanes, s1);
      break;
    }
    V<A> s0 = {}, s1 = {}, s2 = {}, s3 = {};
#pragma GCC unroll 12
    for (int j = 0; j < n; ++j) {
      const A* q = p[j] + m;
      s0 += load(q) * c[j];
      s1 += load(q + lanes) * c[j];
      s2 += load(q + 2 * lanes) * c[j];
      s3 += load(q + 3 * lanes) * c[j];
    }
    store(out + m, s0);
    store(out + m + lanes, s1);
    store(out + m + 2 * lanes, s2);
    store(out + m + 3 * lanes, s3);
  }
}

// out[m] = sum over j of c[j] * p[j][m]; may write up to kSlack elements more.
template <class A>
inline void weighted_sum(A* out, const A* c, const A* const* p, int terms, int64_t count) {
  switch (terms) {
    case 6: return sum_of<A, 6>(out, c, p, terms, count);
    case 12: return sum_of<A, 12>(out, c, p, terms, count);
    default: return sum_of<A, 0>(out, c, p, terms, count);
  }
}

// One axis of an operator: y[o] = sum over i of taps[i * up + offset - o * down] * x[i].
struct Axis {
  int64_t up, down, offset, inputs, outputs, taps;

  int64_t period() const { return up / std::gcd(up, down); }
  int64_t step() const { return down / std::gcd(up, down); }
  int64_t first(int64_t o) const { return ceil_div(o * down - offset, up); }      // input of the first tap
  int64_t tap(int64_t o) const { return first(o) * up + offset - o * down; }      // which tap that is
  int64_t used(int64_t o) const { return std::max<int64_t>(ceil_div(taps - tap(o), up), 0); }
};

// Cuts rows into parts, and puts the phases of a result together. A row that has been cut begins
// at input `begin`; part s holds inputs begin + s, begin + s + step, ...
class RowPlan {
 public:
  explicit RowPlan(const Axis& axis) : axis(axis), period(axis.period()), step(axis.step()) {
    phases = std::min(period, axis.outputs);
    begin = INT64_MAX;
    int64_t end = INT64_MIN;
    for (int64_t r = 0; r < phases; ++r) {
      const int64_t count = ceil_div(axis.outputs - r, period);
      begin = std::min(begin, axis.first(r));
      end = std::max(end, axis.first(r) + (count - 1) * step + std::max<int64_t>(axis.used(r), 1));
    }
    if (phases == 0) begin = end = 0;
    part = row_pitch(ceil_div(end - begin, step));
    length = part * step;
    from = std::clamp<int64_t>(begin, 0, axis.inputs);
    to = std::clamp<int64_t>(end, from, axis.inputs);
  }

  // Reads the inputs [from, to), which begin at `row`, into parts; the rest of those stays 0.
  template <class A>
  void cut(A* __restrict parts, const A* __restrict row) const {
    const int64_t lead = from - begin, count = to - from;
    if (step == 1) {
      std::copy(row, row + count, parts + lead);
    } else if (step == 2 && lead % 2 == 0) {
      A* __restrict even = parts + lead / 2;
      A* __restrict odd = even + part;
      for (int64_t i = 0; i < count / 2; ++i) {
        even[i] = row[2 * i];
        odd[i] = row[2 * i + 1];
      }
      if (count % 2) even[count / 2] = row[count - 1];
    } else {
      for (int64_t s = 0; s < step; ++s) {
        A* __restrict p = parts + s * part;
        for (int64_t t = ceil_div(lead - s, step); t * step + s < lead + count; ++t) p[t] = row[t * step + s - lead];
      }
    }
  }

  // Where the j-th input of output phase r begins.
  template <class A>
  const A* input(const A* parts, int64_t r, int64_t j) const {
    const int64_t i = axis.first(r) - begin + j;
    return parts + (i % step) * part + i / step;
  }

  template <class A>
  void join(A* __restrict out, const A* __restrict results, int64_t pitch) const {
    if (period == 1) {
      std::copy(results, results + axis.outputs, out);
    } else if (period == 2) {
      const A* __restrict a = results;
      const A* __restrict b = results + pitch;
      for (int64_t m = 0; m < (axis.outputs + 1) / 2; ++m) {
        out[2 * m] = a[m];
        out[2 * m + 1] = b[m];
      }
    } else {
      for (int64_t r = 0; r < phases; ++r) {
        for (int64_t m = 0; r + m * period < axis.outputs; ++m) out[r + m * period] = results[r * pitch + m];
      }
    }
  }

  Axis axis;
  int64_t period, step;
  int64_t phases;    // output phases that occur
  int64_t begin;     // input at the start of a cut row, perhaps outside the signal
  int64_t from, to;  // inputs that are needed
  int64_t part;      // elements between the parts
  int64_t length;    // elements of all parts
};

// Filters along rows with one axis of taps.
template <class A>
class RowFilter {
 public:
  RowFilter(const Axis& axis, const A* taps) : plan(axis), pitch_(row_pitch(ceil_div(axis.outputs, plan.period))) {
    for (int64_t r = 0; r < plan.phases; ++r) {
      starts_.push_back(int64_t(taps_.size()));
      for (int64_t j = 0; j < axis.used(r); ++j) taps_.push_back(taps[axis.tap(r) + j * axis.up]);
    }
    starts_.push_back(int64_t(taps_.size()));
    parts_ = Buffer<A>(plan.length);
    results_ = Buffer<A>(pitch_ * plan.phases);
    const A* base = parts_.get();
    for (int64_t r = 0; r < plan.phases; ++r) {
      for (int64_t j = 0; j < axis.used(r); ++j) pointers_.push_back(plan.input(base, r, j));
    }
  }

  // Where to put the inputs [from, to) of a row that is not cut.
  A* parts() const { return parts_.get(); }

  // Filters the row in `parts`; writes outputs + kSlack elements at most.
  void run(A* out) const {
    for (int64_t r = 0; r < plan.phases; ++r) {
      A* target = plan.period == 1 ? out : results_.get() + r * pitch_;
      const int64_t count = ceil_div(plan.axis.outputs - r, plan.period);
      const int64_t a = starts_[r];
      weighted_sum(target, taps_.data() + a, pointers_.data() + a, int(starts_[r + 1] - a), count);
    }
    if (plan.period > 1) plan.join(out, results_.get(), pitch_);
  }

  RowPlan plan;

 private:
  int64_t pitch_;
  std::vector<A> taps_;
  std::vector<const A*> pointers_;
  std::vector<int64_t> starts_;
  Buffer<A> parts_, results_;
};

// Resamples an image row by row: asked for output rows in increasing order, it asks `source(i, row)`
// to put the columns [from, to) of input row i into `row`, each once and in increasing order.
template <class A>
class Resampler {
 public:
  // taps: of one axis [taps_x] (then taps_y are the same, but for a gain) or of two [taps_y, taps_x].
  Resampler(const Axis& x, const Axis& y, const A* taps_x, const A* taps_y, bool full)
      : y_(y), full_(full), taps_(full ? taps_x : taps_y), taps_width_(x.taps), plan_(x) {
    if (!full) rows_ = std::make_unique<RowFilter<A>>(x, taps_x);
    slots_ = ceil_div(y.taps, y.up) + 1;
    pitch_ = full ? plan_.length : row_pitch(x.outputs);
    ring_ = Buffer<A>(slots_ * pitch_);
    input_ = Buffer<A>(row_pitch(plan_.to - plan_.from));
    phase_pitch_ = row_pitch(ceil_div(x.outputs, plan_.period));
    results_ = Buffer<A>(full && plan_.period > 1 ? phase_pitch_ * plan_.phases : 1);
  }

  const RowPlan& plan() const { return plan_; }

  // Forget all rows: the next image, or another place in it.
  void restart() { next_ = INT64_MIN; }

  template <class Source>
  void row(int64_t o, A* out, Source&& source) {
    const int64_t first = y_.first(o), tap = y_.tap(o);
    const int64_t from = std::max<int64_t>(first, 0), to = std::min(first + y_.used(o), y_.inputs);
    for (int64_t i = std::max(from, next_); i < to; ++i) fetch(i, source);
    next_ = std::max(next_, to);
    coefficients_.clear();
    pointers_.clear();
    if (!full_) {
      for (int64_t i = from; i < to; ++i) {
        coefficients_.push_back(taps_[tap + (i - first) * y_.up]);
        pointers_.push_back(slot(i));
      }
      weighted_sum(out, coefficients_.data(), pointers_.data(), int(pointers_.size()), plan_.axis.outputs);
      return;
    }
    const Axis& x = plan_.axis;
    for (int64_t r = 0; r < plan_.phases; ++r) {
      coefficients_.clear();
      pointers_.clear();
      for (int64_t i = from; i < to; ++i) {
        const A* line = taps_ + (tap + (i - first) * y_.up) * taps_width_;
        for (int64_t j = 0; j < x.used(r); ++j) {
          coefficients_.push_back(line[x.tap(r) + j * x.up]);
          pointers_.push_back(plan_.input(static_cast<const A*>(slot(i)), r, j));
        }
      }
      A* target = plan_.period == 1 ? out : results_.get() + r * phase_pitch_;
      const int64_t count = ceil_div(x.outputs - r, plan_.period);
      weighted_sum(target, coefficients_.data(), pointers_.data(), int(pointers_.size()), count);
    }
    if (plan_.period > 1) plan_.join(out, static_cast<const A*>(results_.get()), phase_pitch_);
  }

 private:
  A* slot(int64_t i) const { return ring_.get() + (i % slots_) * pitch_; }

  template <class Source>
  void fetch(int64_t i, Source&& source) {
    A* parts = full_ ? slot(i) : rows_->parts();
    if (plan_.step == 1) {
      source(i, parts + (plan_.from - plan_.begin));
    } else {
      source(i, input_.get());
      plan_.cut(parts, static_cast<const A*>(input_.get()));
    }
    if (!full_) rows_->run(slot(i));
  }

  Axis y_;
  bool full_;
  const A* taps_;
  int64_t taps_width_;
  RowPlan plan_;
  std::unique_ptr<RowFilter<A>> rows_;
  int64_t slots_, pitch_, phase_pitch_;
  int64_t next_ = INT64_MIN;
  Buffer<A> ring_, input_, results_;
  std::vector<A> coefficients_;
  std::vector<const A*> pointers_;
};

}  // namespace lvgan
