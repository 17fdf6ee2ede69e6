# SPDX-License-Identifier: BSD-3-Clause
"""Asks a gem5 binary for the C++ headers that it was built with.

Run BY gem5: `gem5.opt generate_headers.py about FILE` writes its version, `gem5.opt generate_headers.py headers OUT
SOURCES` its headers into the folder OUT, SOURCES being the folder that holds the plug-in's Python package
`gempim_gem5`: params/, enums/, debug/ and config/ for everything that this binary has, and the Python binding of the
plug-in's own SimObjects. Nothing can disagree with the binary, since the binary itself said it. Standard library and m5
only.
"""

import json
import os
import re
import sys
import sysconfig

import m5
import m5.debug
import m5.params
import m5.SimObject
from m5.defines import buildEnv

PLUGIN_CLASSES = ("SramPim", "PimArmDecoder", "PimDram", "Xpu")


class Writer:
    """What gem5's parameter classes expect to write C++ with: a call appends lines.

    `$name`, `${name}` and `${{expression}}` are looked up in the caller, `$0` is the first argument after the text, and
    `$$` is a dollar sign.
    """

    _PATTERN = re.compile(r"\$(?:(\$)|\{\{(.*?)\}\}|\{(\w+)\}|(\w+))", re.DOTALL)

    def __init__(self):
        self.text = ""

    def __call__(self, template="", *arguments, **more):
        """Append `template` with its names filled in, and a line end."""
        frame = sys._getframe(1)
        names = {**frame.f_globals, **frame.f_locals, **more}
        names.update((str(i), argument) for i, argument in enumerate(arguments))

        def value(match):
            dollar, expression, braced, plain = match.groups()
            if dollar:
                return "$"
            return str(eval(expression, names) if expression else names[braced or plain])

        self.text += self._PATTERN.sub(value, template) + "\n"

    def indent(self, count=1):
        """Layout is of no interest here."""

    def dedent(self, count=1):
        """Layout is of no interest here."""


def write(out, name, text):
    """Write OUT/name, folders included."""
    path = os.path.join(out, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("#pragma once\n" + text)


def declare_class(signature, template_params):
    """A forward declaration of a possibly namespaced, possibly templated class."""
    parts = signature.split("<")[0].split("::")
    head = "template <{}> ".format(", ".join(template_params)) if template_params else ""
    return "{}{}class {};{}\n".format(
        "".join(f"namespace {n} {{ " for n in parts[:-1]), head, parts[-1], " }" * (len(parts) - 1)
    )


def local_params(cls):
    """The parameters that a class adds to its base, sorted by name as gem5 sorts them."""
    return [param for _, param in sorted(cls._params.local.items())]


def param_header(cls):
    """params/<cls>.hh."""
    code = Writer()
    code.text += declare_class(cls._value_dict["cxx_class"], cls._value_dict["cxx_template_params"])
    if cls is m5.SimObject.SimObject:
        code.text += "#include <string>\n"
    params = local_params(cls)
    ports = list(cls._ports.local.values())
    for item in params + ports:
        item.cxx_predecls(code)
    if cls._base:
        code.text += f'#include "params/{cls._base.type}.hh"\n'
    for param in params:
        if issubclass(param.ptype, m5.params.Enum):
            code.text += f'#include "enums/{param.ptype.__name__}.hh"\n'
    base = f" : public {cls._base.type}Params" if cls._base else ""
    code.text += f"namespace gem5 {{\nstruct {cls.type}Params{base} {{\n"
    if not getattr(cls, "abstract", False) and "type" in cls.__dict__:
        code.text += f"{cls.cxx_type} create() const;\n"
    if cls is m5.SimObject.SimObject:
        code.text += "virtual ~SimObjectParams() = default;\nstd::string name;\n"
    for item in params + ports:
        item.cxx_decl(code)
    code.text += "};\n} // namespace gem5\n"
    return code.text


def enum_header(enum):
    """enums/<enum>.hh."""
    name = enum.__name__ if enum.enum_name is None else enum.enum_name
    values = "".join(f"{v} = {enum.map[v]},\n" for v in enum.vals) + f"Num_{name} = {len(enum.vals)}\n"
    strings = f"const char *{name}Strings"
    if enum.is_class:
        body = f"enum class {name} {{\n{values}}};\nextern {strings}[static_cast<int>({name}::Num_{name})];\n"
    else:
        wrapper = "struct" if enum.wrapper_is_struct else "namespace"
        storage = "static" if enum.wrapper_is_struct else "extern"
        body = f"{wrapper} {enum.wrapper_name} {{\nenum {name} {{\n{values}}};\n"
        body += f"{storage} {strings}[Num_{name}];\n}};\n"
    return f"namespace gem5 {{\n{body}}} // namespace gem5\n"


def debug_header(flag):
    """debug/<flag>.hh: the binary's own flag, never a second one."""
    kind = "CompoundFlag" if isinstance(flag, m5.debug.CompoundFlag) else "SimpleFlag"
    return (
        '#include "base/debug.hh"\nnamespace gem5 { namespace debug { namespace unions {\n'
        f"union {flag.name} {{ ~{flag.name}(); {kind} {flag.name}; }};\n"
        f"extern union {flag.name} {flag.name};\n}} // namespace unions\n"
        f"inline constexpr const auto &{flag.name} = ::gem5::debug::unions::{flag.name}.{flag.name};\n"
        "} } // namespace gem5::debug\n"
    )


def config_header(name, value):
    """config/<name>.hh."""
    if isinstance(value, bool):
        value = int(value)
    text = value if isinstance(value, int) else json.dumps(str(value))
    return f"#define {name} {text}\n"


def binding(cls):
    """C++ that shows one of the plug-in's SimObjects to Python, as gem5's build does for its own."""
    exports = list(cls.cxx_param_exports)
    exports += [m5.SimObject.PyBindProperty(name) for name in sorted(cls._params.local)]
    exports += [m5.SimObject.PyBindProperty(f"port_{p}_connection_count") for p in sorted(cls._ports.local)]
    code = Writer()
    for param in local_params(cls):
        param.pybind_predecls(code)
    head = code.text
    code = Writer()
    params, base = f"{cls.type}Params", f"{cls._base.type}Params"
    code.text += f'py::class_<{params}, {base}, std::unique_ptr<{params}, py::nodelete>>(m, "{params}")\n'
    code.text += f'.def(py::init<>()).def("create", &{params}::create)\n'
    for export in exports:
        export.export(code, params)
    bases = f"{cls._base.cxx_class}, std::unique_ptr<{cls.cxx_class}, py::nodelete>"
    code.text += f';\npy::class_<{cls.cxx_class}, {bases}>(m, "{cls.pybind_class}")\n'
    for export in cls.cxx_exports:
        export.export(code, cls.cxx_class)
    code.text += ";\n"
    return head, code.text


def plugin_headers(out, sources):
    """The plug-in's own SimObjects: params headers, their binding, and the copies of the models' parameters."""
    import importlib

    includes, bodies = "", ""
    for name in PLUGIN_CLASSES:
        cls = getattr(importlib.import_module("gempim_gem5." + name), name)
        write(out, f"params/{name}.hh", param_header(cls))
        head, body = binding(cls)
        includes += f'#include "params/{name}.hh"\n#include "{cls.cxx_header}"\n' + head
        bodies += body
    text = "{}namespace gem5 {{\nnamespace py = pybind11;\ninline void bind_sim_objects(py::module_ &m) {{\n{}}}\n}}\n"
    write(out, "gem5/bind_sim_objects.hh", text.format(includes, bodies))
    copy_params(out, sources, "sram_pim_params.json", "sram_pim")
    for model in ("logic_pim", "dram"):
        copy_params(out, sources, "pim_dram_params.json", model)


def copy_params(out, sources, listed, model):
    """gem5/<model>_copy_params.hh: from a SimObject's parameters, the ones in the list `listed`, to the model's."""
    with open(os.path.join(sources, "gempim_gem5", listed)) as file:
        names = [info["name"] for info in json.load(file) if info["model"] == model]
    # Included in a function body, so no header guard.
    with open(os.path.join(out, "gem5", f"{model}_copy_params.hh"), "w") as file:
        file.writelines(f"model.{n} = static_cast<decltype(model.{n})>(params.{n});\n" for n in names)


def about(path):
    """Write what this gem5 is, as JSON: version, whether it has ARM, the include folders of its Python."""
    import _m5.core

    paths = sysconfig.get_paths()
    said = {
        "version": _m5.core.gem5Version,
        "arm": "ArmDecoder" in m5.SimObject.allClasses,
        "python_include": sorted({paths["include"], paths["platinclude"]}),
    }
    with open(path, "w") as file:
        json.dump(said, file)


def headers(out, sources):
    """Write every header."""
    for name, cls in sorted(m5.SimObject.allClasses.items()):
        if cls._value_dict.get("type") == name:
            write(out, f"params/{name}.hh", param_header(cls))
    for name, enum in sorted(m5.params.allEnums.items()):
        write(out, f"enums/{name}.hh", enum_header(enum))
    for flag in m5.debug.flags.values():
        write(out, f"debug/{flag.name}.hh", debug_header(flag))
    for name, value in sorted(buildEnv.items()):
        write(out, f"config/{name.lower()}.hh", config_header(name, value))
    sys.path.insert(0, sources)
    plugin_headers(out, sources)


{"about": about, "headers": headers}[sys.argv[1]](*sys.argv[2:])
