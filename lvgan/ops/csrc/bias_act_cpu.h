// bias_act on the CPU: rows of memory at a time, in blocks that stay in the nearest cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "bias_act_math.h"
#include "vec.h"

namespace lvgan {

// Every tensor is one run of memory in the same order. The bias belongs to one axis of it:
// element i has bias[i / inner % channels].
template <class A>
struct Pointwise {
  RowAccess<A> rows;
  const char* x;        // forward: the input; backward: dy
  const char* at;       // backward: where the derivative is taken (y for Act::bent; x else), or null
  char* out;
  std::vector<A> bias;  // or empty
  int64_t inner, channels;
  ActSettings<A> set;
};

constexpr int64_t kBlock = 2048;

// dst = elements [begin, begin + n) of src, plus their bias.
template <class A>
void read_biased(A* dst, const char* src, const Pointwise<A>& op, bool biased, int64_t begin, int64_t n) {
  const int64_t size = op.rows.size, channels = op.channels;
  if (!biased || op.inner == 1) op.rows.read(dst, src + begin * size, n, A(0));
  if (!biased) return;
  int64_t c = begin / op.inner % channels;
  if (op.inner == 1) {  // the bias runs along memory
    for (int64_t i = 0; i < n; c = 0) {
      const int64_t run = std::min(n - i, channels - c);
      const A* __restrict bias = op.bias.data() + c;
      for (int64_t j = 0; j < run; ++j) dst[i + j] += bias[j];
      i += run;
    }
    return;
  }
  int64_t left = op.inner - begin % op.inner;
  for (int64_t i = 0; i < n; left = op.inner) {
    const int64_t run = std::min(left, n - i);
    op.rows.read(dst + i, src + (begin + i) * size, run, op.bias[c]);
    i += run;
    c = c + 1 == channels ? 0 : c + 1;
  }
}

// f(set) in two copies, with and without a limit, so that the loops in it have no branches.
template <class A, class F>
LVGAN_INLINE void by_limit(ActSettings<A> set, F&& f) {
  if (set.limited) {
    set.limited = true;
    f(set);
  } else {
    set.limited = false;
    f(set);
  }
}

template <class A, Act kAct>
void forward_range(const Pointwise<A>& op, int64_t begin, int64_t end) {
  const ActSettings<A> set = op.set;
  alignas(64) A u[kBlock];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    read_biased(u, op.x, op, !op.bias.empty(), i, n);
    by_limit(set, [&](const ActSettings<A> now) LVGAN_FLAT {
      for (int64_t j = 0; j < n; ++j) u[j] = act_forward<kAct>(u[j], now);
    });
    op.rows.write(op.out + i * op.rows.size, u, n);
  }
}

template <class A, Act kAct>
void backward_range(const Pointwise<A>& op, int64_t begin, int64_t end) {
  const ActSettings<A> set = op.set;
  alignas(64) A dy[kBlock], at[kBlock];
  for (int64_t i = begin; i < end; i += kBlock) {
    const int64_t n = std::min(kBlock, end - i);
    op.rows.read(dy, op.x + i * op.rows.size, n, A(0));
    if (op.at) {
      read_biased(at, op.at, op, kAct != Act::bent && !op.bias.empty(), i, n);
      by_limit(set, [&](const ActSettings<A> now) LVGAN_FLAT {
        for (int64_t j = 0; j < n; ++j) dy[j] = act_backward<kAct>(dy[j], at[j], now);
      });
    } else {
      for (int64_t j = 0; j < n; ++j) dy[j] *= set.gain;
    }
    op.rows.write(op.out + i * op.rows.size, dy, n);
  }
}

}  // namespace lvgan
