// SPDX-License-Identifier: BSD-3-Clause
#include "regions.hh"

#include <chrono>
#include <cstdio>
#include <string_view>

#include "ggml.h"
#include "micro/m5ops.h"

namespace gempim::llama {

namespace {

/** Names of llama.cpp's graphs: the embeddings of the tokens, and what leaves a layer. */
constexpr std::string_view kEmbedding = "embd";
constexpr std::string_view kLayerOutput = "l_out-";

bool computes(const ggml_tensor *node) {
    switch (node->op) {
    case GGML_OP_NONE:
    case GGML_OP_RESHAPE:
    case GGML_OP_VIEW:
    case GGML_OP_PERMUTE:
    case GGML_OP_TRANSPOSE:
        return false;
    default:
        return true;
    }
}

/** "<layer> <ggml op> <name> <weight type> <m>x<n>x<k>", with - for what it has not. */
std::string describe(const ggml_tensor *node) {
    std::string_view name = node->name;
    std::string_view layer = "-";
    const std::size_t dash = name.rfind('-');
    if (dash != std::string_view::npos && name.find_first_not_of("0123456789", dash + 1) == std::string_view::npos) {
        layer = name.substr(dash + 1);
        name = name.substr(0, dash);
    }
    const bool product = node->op == GGML_OP_MUL_MAT;
    std::string out(layer);
    out += ' ';
    out += ggml_op_desc(node);
    out += ' ';
    for (const char c : name.empty() ? std::string_view("unnamed") : name) {
        out += c == ' ' ? '_' : c;
    }
    out += ' ';
    out += product ? ggml_type_name(node->src[0]->type) : "-";
    out += ' ' + std::to_string(ggml_nrows(node)) + 'x' + std::to_string(node->ne[0]) + 'x';
    out += product ? std::to_string(node->src[0]->ne[0]) : "-";
    return out;
}

} // namespace

Regions::Regions(Split split, bool m5) : split_(split), m5_(m5) {
    gempim_m5_enabled = m5 ? 1 : 0;
}

void Regions::begin(std::string label) {
    label_ = std::move(label);
    gempim_m5_work_begin(index_, 0);
}

void Regions::end() {
    gempim_m5_work_end(index_, 0);
    std::printf("roi %u %s\n", index_++, label_.c_str());
}

void Regions::begin_pass(const std::string &label) {
    pass_ = label;
    boundaries_ = 0;
    begin(split_ == Split::pass ? label : label + " start");
}

bool Regions::end_pass(int layers) {
    if (split_ == Split::layer && boundaries_ == layers + 1) {
        label_ = pass_ + " head";
    } else if (split_ == Split::operation) {
        label_ = pass_ + " end";
    }
    end();
    return split_ != Split::layer || boundaries_ == layers + 1;
}

ggml_backend_sched_eval_callback Regions::callback() const {
    return split_ == Split::pass ? nullptr : &Regions::evaluate;
}

bool Regions::evaluate(ggml_tensor *node, bool ask, void *self) {
    auto *regions = static_cast<Regions *>(self);
    if (ask) {
        return regions->is_boundary(node);
    }
    regions->cross(node);
    return true;
}

bool Regions::is_boundary(const ggml_tensor *node) const {
    if (split_ == Split::operation) {
        return computes(node);
    }
    const std::string_view name = node->name;
    return name == kEmbedding || name.substr(0, kLayerOutput.size()) == kLayerOutput;
}

void Regions::cross(const ggml_tensor *node) {
    if (split_ == Split::operation) {
        // What has just been computed began at the boundary before, or, the first, after the preparation of the graph.
        if (boundaries_++ > 0) {
            label_ = pass_ + " operator " + describe(node);
        }
        end();
        begin("");
        return;
    }
    end();
    begin(pass_ + " layer " + std::to_string(boundaries_++));
}

std::uint64_t Regions::now_ns() const {
    if (m5_) {
        return gempim_m5_rpns();
    }
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

void Regions::leave() const {
    std::fflush(stdout);
    gempim_m5_exit();
}

} // namespace gempim::llama
