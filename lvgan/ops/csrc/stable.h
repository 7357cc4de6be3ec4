// The little that both libraries need of torch's stable ABI.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "bias_act_math.h"

namespace lvgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
using Floats = std::optional<double>;

inline Tensor new_empty(const Tensor& like, const Ints& sizes, ScalarType dtype) {
  return torch::stable::new_empty(like, sizes, dtype);
}

using torch::stable::contiguous;

inline void check_filter_dtype(const Tensor& x, const Tensor& f) {
  const auto wanted = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(f.scalar_type() == wanted, "lvgan: filters have to be float32 (float64 for a float64 signal)");
  STD_TORCH_CHECK(f.dim() == 1 || f.dim() == 2, "lvgan: filters have one or two axes");
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) return false;
  }
  return true;
}

// t, or a copy of it, laid out in memory like `like`, which is dense.
inline Tensor laid_out_as(const Tensor& t, const Tensor& like) {
  if (same_layout(t, like)) return t;
  Tensor copy = torch::stable::empty_like(like);
  return torch::stable::copy_(copy, t);
}

// f(Act) for the name of an activation, as a constant.
template <class F>
void by_activation(const std::string& name, F&& f) {
  if (name == "linear" || name == "lrelu") return f(std::integral_constant<Act, Act::bent>{});
  if (name == "relu") return f(std::integral_constant<Act, Act::relu>{});
  if (name == "tanh") return f(std::integral_constant<Act, Act::tanh>{});
  if (name == "sigmoid") return f(std::integral_constant<Act, Act::sigmoid>{});
  if (name == "elu") return f(std::integral_constant<Act, Act::elu>{});
  if (name == "selu") return f(std::integral_constant<Act, Act::selu>{});
  if (name == "softplus") return f(std::integral_constant<Act, Act::softplus>{});
  if (name == "swish") return f(std::integral_constant<Act, Act::swish>{});
  STD_TORCH_CHECK(false, "lvgan::bias_act: unknown activation ", name);
}

}  // namespace lvgan
