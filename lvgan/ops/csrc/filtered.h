// What a call of filtered_lrelu or filtered_mask is, once its tensors are pointers. CPU only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fir.h"

namespace lvgan {

// Taps are in the order of a correlation, the gain in those of fu_x.
template <class A>
struct Filtered {
  RowAccess<A> rows;
  const char* x;
  char* y;
  std::vector<A> bias;  // [channels] or empty
  uint8_t* codes;
  int64_t channels, stride_n, stride_c, stride_h;  // of x; its rows are contiguous
  int64_t high_x, high_y, code_pitch;
  Axis up_x, up_y, down_x, down_y;
  bool fu_full, fd_full;
  std::vector<A> fu_x, fu_y, fd_x, fd_y;
  A slope, limit;
  bool limited;

  // Columns [from, to) of row i, with the bias.
  void read(int64_t plane, int64_t i, int64_t from, int64_t to, A* row) const {
    const int64_t n = plane / channels, c = plane % channels;
    const char* source = x + (n * stride_n + c * stride_c + i * stride_h + from) * rows.size;
    rows.read(row, source, to - from, bias.empty() ? A(0) : bias[c]);
  }

  void write(int64_t plane, int64_t o, const A* row) const {
    rows.write(y + (plane * down_y.outputs + o) * down_x.outputs * rows.size, row, down_x.outputs);
  }
};

}  // namespace lvgan
