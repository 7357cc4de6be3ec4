// upfirdn2d on the CPU: row by row, through a ring of rows that were filtered along x.
#pragma once

#include "fir.h"

namespace lvgan {

template <class A>
struct Upfirdn {
  RowAccess<A> rows;
  const char* x;
  char* y;
  int64_t channels, stride_n, stride_c, stride_h;  // of x; its rows are contiguous
  Axis axis_x, axis_y;
  bool full;
  std::vector<A> taps_x, taps_y;
};

template <class A>
class UpfirdnTask {
 public:
  explicit UpfirdnTask(const Upfirdn<A>& op)
      : op_(op), resample_(op.axis_x, op.axis_y, op.taps_x.data(), op.taps_y.data(), op.full) {
    result_ = Buffer<A>(row_pitch(op.axis_x.outputs));
  }

  void run(int64_t plane, int64_t begin, int64_t end, bool) {
    const RowPlan& plan = resample_.plan();
    const int64_t image = plane / op_.channels * op_.stride_n + plane % op_.channels * op_.stride_c;
    resample_.restart();
    const auto source = [&](int64_t i, A* row) {
      op_.rows.read(row, op_.x + (image + i * op_.stride_h + plan.from) * op_.rows.size, plan.to - plan.from, A(0));
    };
    for (int64_t o = begin; o < end; ++o) {
      resample_.row(o, result_.get(), source);
      const int64_t at = (plane * op_.axis_y.outputs + o) * op_.axis_x.outputs;
      op_.rows.write(op_.y + at * op_.rows.size, result_.get(), op_.axis_x.outputs);
    }
  }

 private:
  const Upfirdn<A>& op_;
  Resampler<A> resample_;
  Buffer<A> result_;
};

}  // namespace lvgan
