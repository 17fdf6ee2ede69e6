// SPDX-License-Identifier: BSD-3-Clause
// Regions of interest of the guest: gem5's magic operations around them, a line `roi INDEX LABEL` after each, and the
// split of a pass through the model at its layers or operators by ggml's evaluation callback.
#pragma once

#include <cstdint>
#include <string>

#include "ggml-backend.h"

namespace gempim::llama {

/** How finely a pass is divided. */
enum class Split { pass, layer, operation };

class Regions {
  public:
    /** @param m5 whether the program runs in gem5: without, no magic operation is executed */
    Regions(Split split, bool m5);

    void begin(std::string label);
    void end();

    /** Begin and end a pass: one region, or as many as `split` makes of it. */
    void begin_pass(const std::string &label);
    /** @return false when Split::layer did not find the parts of a model of `layers` layers in the graph */
    bool end_pass(int layers);

    /** For llama_context_params::cb_eval; null for Split::pass, which leaves the scheduler alone. */
    ggml_backend_sched_eval_callback callback() const;

    /** Simulated time in gem5, else the machine's monotonic clock [ns]. */
    std::uint64_t now_ns() const;

    /** End the simulation, now and well. Nothing outside gem5. */
    void leave() const;

  private:
    static bool evaluate(ggml_tensor *node, bool ask, void *self);
    bool is_boundary(const ggml_tensor *node) const;
    void cross(const ggml_tensor *node);

    Split split_;
    bool m5_;
    unsigned index_ = 0;
    std::string label_;
    std::string pass_;
    int boundaries_ = 0;
};

} // namespace gempim::llama
