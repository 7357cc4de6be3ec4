// bias_act on the CPU: what is read once is written once. Numbers of the arithmetic's own type never
// leave the registers in between; 16-bit ones go through blocks in the nearest cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bias_act_math.h"
#include "vec.h"

namespace lvgan {

// Every tensor is one run of memory in the same order; element i has bias[i / inner % bias.size()].
template <class A>
struct Pointwise {
  RowAccess<A> rows;
  const char* x;        // forward: the input; backward: dy
  const char* at;       // backward: where the derivative is taken (the result or the input), or null
  char* out;
  std::vector<A> bias;  // or empty
  int64_t inner;
  ActSettings<A> set;
};

constexpr int64_t kBlock = 2048;

// Makes the bias one that runs along memory where its steps are short, and long where it does so: loops
// over few elements are slow.
template <class A>
void lengthen_bias(Pointwise<A>& op) {
  if (op.inner > 1 && op.inner < 32) {
    std::vector<A> spread;
    for (const A value : op.bias) spread.insert(spread.end(), op.inner, value);
    op.bias = std::move(spread), op.inner = 1;
  }
  while (op.inner == 1 && !op.bias.empty() && op.bias.size() < 256) {
    const std::vector<A> once = op.bias;
    op.bias.insert(op.bias.end(), once.begin(), once.end());
  }
}

// Calls f(i, n, shift, bias) for the runs [i, i + n) of [begin, end), of at most kBlock elements: those of
// one run have the bias `shift`, or each its own (then `bias` is not null).
template <class A, class F>
LVGAN_INLINE void each_run(const Pointwise<A>& op, bool biased, int64_t begin, int64_t end, F&& f) {
  const int64_t length = int64_t(op.bias.size());
  for (int64_t i = begin; i < end;) {
    int64_t run = std::min(kBlock, end - i);
    if (biased && op.inner == 1) {
      const int64_t c = i % length;
      run = std::min(run, length - c);
      f(i, run, A(0), op.bias.data() + c);
    } else if (biased) {
      run = std::min(run, op.inner - i % op.inner);
      f(i, run, op.bias[i / op.inner % length], static_cast<const A*>(nullptr));
    } else {
      f(i, run, A(0), static_cast<const A*>(nullptr));
    }
    i += run;
  }
}

// f(set, by) in copies for each case, so that the loops in it have no branches; by(j) is the bias of element j.
template <class A, class F>
LVGAN_INLINE void by_case(ActSettings<A> set, A shift, const A* bias, F&& f) {
  const auto own = [bias](int64_t j) LVGAN_FLAT { return bias[j]; };
  const auto same = [shift](int64_t) LVGAN_FLAT { return shift; };
  const bool limited = set.limited;
  set.limited = true;
  if (limited && bias) return f(set, own);
  if (limited) return f(set, same);
  set.limited = false;
  if (bias) return f(set, own);
  return f(set, same);
}

template <class A, Act kAct>
void forward_run(A* __restrict out, const A* __restrict x, int64_t n, A shift, const A* bias,
                 const ActSettings<A>& set) {
  by_case(set, shift, bias, [&](const ActSettings<A> now, auto by) LVGAN_FLAT {
    for (int64_t j = 0; j < n; ++j) out[j] = act_forward<kAct>(x[j] + by(j), now);
  });
}

template <class A, Act kAct>
void backward_run(A* __restrict out, const A* __restrict dy, const A* __restrict at, int64_t n, A shift,
                  const A* bias, const ActSettings<A>& set) {
  by_case(set, shift, bias, [&](const ActSettings<A> now, auto by) LVGAN_FLAT {
    for (int64_t j = 0; j < n; ++j) out[j] = act_backward<kAct>(dy[j], at[j] + by(j), now);
  });
}

template <class A, Act kAct>
void forward_range(const Pointwise<A>& op, int64_t begin, int64_t end) {
  const bool direct = op.rows.size == sizeof(A);
  alignas(64) A u[kBlock], v[kBlock];
  each_run(op, !op.bias.empty(), begin, end, [&](int64_t i, int64_t n, A shift, const A* bias) {
    const char* x = op.x + i * op.rows.size;
    char* out = op.out + i * op.rows.size;
    if (!direct) op.rows.read(u, x, n, A(0));
    forward_run<A, kAct>(direct ? reinterpret_cast<A*>(out) : v, direct ? reinterpret_cast<const A*>(x) : u, n, shift,
                         bias, op.set);
    if (!direct) op.rows.write(out, v, n);
  });
}

template <class A, Act kAct>
void backward_range(const Pointwise<A>& op, int64_t begin, int64_t end) {
  const bool direct = op.rows.size == sizeof(A);
  alignas(64) A u[kBlock], v[kBlock], w[kBlock];
  const bool biased = op.at && !at_result(kAct) && !op.bias.empty();
  each_run(op, biased, begin, end, [&](int64_t i, int64_t n, A shift, const A* bias) {
    const char* from = op.x + i * op.rows.size;
    const char* place = op.at ? op.at + i * op.rows.size : from;
    char* out = op.out + i * op.rows.size;
    const A* dy = direct ? reinterpret_cast<const A*>(from) : u;
    const A* at = direct ? reinterpret_cast<const A*>(place) : v;
    A* dx = direct ? reinterpret_cast<A*>(out) : w;
    if (!direct) op.rows.read(u, from, n, A(0));
    if (op.at) {
      if (!direct) op.rows.read(v, place, n, A(0));
      backward_run<A, kAct>(dx, dy, at, n, shift, bias, op.set);
    } else {
      for (int64_t j = 0; j < n; ++j) dx[j] = dy[j] * op.set.gain;
    }
    if (!direct) op.rows.write(out, w, n);
  });
}

}  // namespace lvgan
