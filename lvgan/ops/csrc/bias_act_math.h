// The activations and their slopes, for one number. Compiled for CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "portable.h"

namespace lvgan {

// `bent`: linear and lrelu, by their slope below zero. What NaN becomes is what torch's own functions
// and torch.clamp make of it, in the derivatives too.
enum class Act { bent, relu, tanh, sigmoid, elu, selu, softplus, swish };

template <class A>
struct ActSettings {
  A slope, gain, limit;
  bool limited;
};

template <class A>
LVGAN_BOTH A sigmoid(A u) {
  return A(1) / (A(1) + std::exp(-u));
}

template <Act kAct, class A>
LVGAN_BOTH A act_value(A u, A slope) {
  constexpr A scale = A(1.0507009873554805), alpha = A(1.6732632423543772);
  if constexpr (kAct == Act::bent) return u > 0 ? u : u * slope;
  else if constexpr (kAct == Act::relu) return u < 0 ? A(0) : u;
  else if constexpr (kAct == Act::tanh) return std::tanh(u);
  else if constexpr (kAct == Act::sigmoid) return sigmoid(u);
  else if constexpr (kAct == Act::elu) return u > 0 ? u : std::expm1(u);
  else if constexpr (kAct == Act::selu) return scale * (u > 0 ? u : alpha * std::expm1(u));
  else if constexpr (kAct == Act::softplus) return u > A(20) ? u : std::log1p(std::exp(u));
  else return u * sigmoid(u);
}

// True for activations whose derivative is taken at their result.
constexpr bool at_result(Act act) { return act == Act::bent || act == Act::relu; }

// The derivative at u, or at the result.
template <Act kAct, class A>
LVGAN_BOTH A act_slope(A u, A slope) {
  constexpr A scale = A(1.0507009873554805), alpha = A(1.6732632423543772);
  if constexpr (kAct == Act::bent) {
    return u > 0 ? A(1) : slope;
  } else if constexpr (kAct == Act::relu) {
    return u <= 0 ? A(0) : A(1);
  } else if constexpr (kAct == Act::tanh) {
    const A t = std::tanh(u);
    return A(1) - t * t;
  } else if constexpr (kAct == Act::elu) {
    return u > 0 ? A(1) : std::exp(u);
  } else if constexpr (kAct == Act::selu) {
    return u > 0 ? scale : scale * alpha * std::exp(u);
  } else {
    const A s = sigmoid(u);
    if constexpr (kAct == Act::sigmoid) return s * (A(1) - s);
    else if constexpr (kAct == Act::softplus) return s;
    else return s * (A(1) + u * (A(1) - s));
  }
}

template <class A>
LVGAN_BOTH A limit_to(A v, const ActSettings<A>& set) {
  if (!set.limited) return v;
  v = v > set.limit ? set.limit : v;
  return v < -set.limit ? -set.limit : v;
}

// clamp(gain * act(u)).
template <Act kAct, class A>
LVGAN_BOTH A act_forward(A u, const ActSettings<A>& set) {
  return limit_to(act_value<kAct>(u, set.slope) * set.gain, set);
}

// v, or 0. On the CPU through its bits: of a condition the compiler makes loads under a mask, which take twice
// as long as the rest of the loop.
template <class A>
LVGAN_BOTH A only_if(bool keep, A v) {
#if defined(__CUDA_ARCH__)
  return keep ? v : A(0);
#else
  std::conditional_t<sizeof(A) == 4, int32_t, int64_t> bits;
  static_assert(sizeof bits == sizeof v);
  __builtin_memcpy(&bits, &v, sizeof v);
  bits &= -decltype(bits)(keep);
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
#endif
}

// dy times the derivative, at the result y or at u = x + b. A result at the limit was clamped; elsewhere
// the limit itself is inside. The clamp comes before the slope, which may be NaN.
template <Act kAct, class A>
LVGAN_BOTH A act_backward(A dy, A at, const ActSettings<A>& set) {
  if (set.limited) {
    bool inside;  // no branches: in vectors
    if constexpr (at_result(kAct)) {
      inside = (at > -set.limit) & (at < set.limit);
    } else {
      const A value = act_value<kAct>(at, set.slope) * set.gain;
      inside = (value >= -set.limit) & (value <= set.limit);
    }
    dy = only_if(inside, dy);
  }
  return dy * (act_slope<kAct>(at, set.slope) * set.gain);
}

// bias_act or its backward over tensors that lie in memory in one order; element i has the bias
// [i / inner % channels].
template <class A>
struct PointCall {
  const void* x;     // forward: the input; backward: dy
  const void* at;    // backward: where the derivative is taken, or null
  const void* bias;  // or null
  void* out;
  Kind kind;
  int64_t count, inner, channels;
  ActSettings<A> set;
};

template <Act kAct, class A>
LVGAN_BOTH void point_forward(const PointCall<A>& call, int64_t i) {
  A u = read_number<A>(call.x, i, call.kind);
  if (call.bias) u += read_number<A>(call.bias, i / call.inner % call.channels, call.kind);
  write_number<A>(call.out, i, act_forward<kAct>(u, call.set), call.kind);
}

template <Act kAct, class A>
LVGAN_BOTH void point_backward(const PointCall<A>& call, int64_t i) {
  const A dy = read_number<A>(call.x, i, call.kind);
  A dx = dy * call.set.gain;
  if (call.at) {
    A at = read_number<A>(call.at, i, call.kind);
    if (!at_result(kAct) && call.bias) at += read_number<A>(call.bias, i / call.inner % call.channels, call.kind);
    dx = act_backward<kAct>(dy, at, call.set);
  }
  write_number<A>(call.out, i, dx, call.kind);
}

}  // namespace lvgan
