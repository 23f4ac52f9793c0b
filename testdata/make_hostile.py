"""Make hostile/: small files that a server must refuse, one for each rule, and hostile/manifest.json with what is due.

A few good files stand among them, so that a check that refuses too much is found as well.

Run make_models.py first: truncated.onnx is a half of iris.onnx. Nothing here is random. Never load these files in a
process that matters: some of them take minutes or for ever.
"""

import gzip
import io
import json
import os
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper

import hostile_runs
from graph_models import const, model, value

HERE = os.path.dirname(os.path.abspath(__file__))

FLOAT = TensorProto.FLOAT


def main() -> None:
    folder = os.path.join(HERE, "hostile")
    os.makedirs(folder, exist_ok=True)
    manifest = []
    for name, code, make, why in FILES:
        made = make()
        with open(os.path.join(folder, name), "wb") as file:
            file.write(made if isinstance(made, bytes) else made.SerializeToString(deterministic=True))
        manifest.append({"file": name, "reject": code != "", "code": code, "why": why})
    with open(os.path.join(folder, "manifest.json"), "w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" + ",\n".join(json.dumps(entry) for entry in manifest) + "\n]\n")
    print("wrote", len(manifest), "files")


# An honest model that the others are spoilt copies of.

def _tiny(weight: TensorProto | None = None, nodes: list | None = None) -> onnx.ModelProto:
    """y = x + w over two floats a row."""
    return model("tiny", nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
                 [value("x", FLOAT, ["N", 2])], [value("y", FLOAT, ["N", 2])],
                 [weight or const("w", [1, 2])])


# The wire format of protocol buffers, for what the onnx package would not write.

def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


# Files that are no ONNX at all, or only a part of one.

def _text() -> bytes:
    return b"This is not a model.\nIt is a text file whose name ends in .onnx.\n"


def _pickle() -> bytes:
    """{'model': 'iris'} as pickle protocol 4."""
    return b"\x80\x04\x95\x13\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x05model\x94\x8c\x04iris\x94s."


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:  # as PyTorch's own .pt files are
        archive.writestr(zipfile.ZipInfo("model/data.pkl", (2026, 1, 1, 0, 0, 0)), _pickle())
    return made.getvalue()


def _truncated() -> bytes:
    with open(os.path.join(HERE, "iris.onnx"), "rb") as file:
        whole = file.read()
    return whole[:len(whole) // 2]


def _huge_varint() -> bytes:
    """The graph's length is a varint that does not end within its ten bytes."""
    return b"\x08\x0a" + _varint(7 << 3 | 2) + b"\xff" * 11 + b"\x01" + b"padding" * 4


def _huge_length() -> bytes:
    """The graph claims 2**62 bytes."""
    return b"\x08\x0a" + _varint(7 << 3 | 2) + _varint(2**62) + b"padding" * 4


def _gzip() -> bytes:
    """A megabyte of zeros in a thousand bytes."""
    return gzip.compress(bytes(1 << 20), mtime=0)


# Bytes that the runtime's parser reads otherwise than a careless check.

def _plain() -> bytes:
    return _tiny().SerializeToString(deterministic=True)


def _graph_twice() -> bytes:
    """A second graph, which protocol buffers merge with the first, with a node that no check of the first has seen."""
    more = onnx.GraphProto(node=[helper.make_node("Frobnicate", ["x"], ["z"])])
    return _plain() + _field(7, more.SerializeToString(deterministic=True))


def _wide_type() -> bytes:
    """A weight of the element type 2**32 + 1, which is 1 (float) in 32 bits."""
    made = _tiny()
    weight = _field(8, b"w") + _field(9, bytes(8)) + b"\x08\x02" + b"\x10" + _varint((1 << 32) + 1)
    del made.graph.initializer[:]
    graph = made.graph.SerializeToString(deterministic=True) + _field(5, weight)
    made.ClearField("graph")
    return made.SerializeToString(deterministic=True) + _field(7, graph)


def _polyglot() -> bytes:
    """A good model that also has the mark of onnxruntime's own format where that has it."""
    made = _tiny()
    made.ClearField("producer_name")
    return b"\x12\x84\x80\x00ORTM" + made.SerializeToString(deterministic=True)


def _huge_count() -> bytes:
    """A node whose list of integers claims 2**40 bytes."""
    made = _tiny()
    attribute = _field(1, b"axes") + _varint(8 << 3 | 2) + _varint(2**40)
    node = _field(2, b"z") + _field(4, b"Identity") + _field(5, attribute)
    graph = made.graph.SerializeToString(deterministic=True) + _field(1, node)
    made.ClearField("graph")
    return made.SerializeToString(deterministic=True) + _field(7, graph)


def _attribute(**fields) -> onnx.ModelProto:
    """The node's one attribute, field by field."""
    made = _tiny(nodes=[helper.make_node("Softmax", ["x"], ["s"]), helper.make_node("Add", ["s", "w"], ["y"])])
    made.graph.node[0].attribute.add(name="axis", **fields)
    return made


def _attribute_twice() -> onnx.ModelProto:
    made = _attribute(type=onnx.AttributeProto.INT, i=1)
    made.graph.node[0].attribute.add(name="axis", type=onnx.AttributeProto.INT, i=0)
    return made


def _empty_raw() -> onnx.ModelProto:
    """Two floats, and raw_data that are there but empty: where they are, the runtime looks nowhere else."""
    return _tiny(TensorProto(name="w", data_type=FLOAT, dims=[2], float_data=[1, 2], raw_data=b""))


# External data, wherever a tensor can stand.

def _outside(location: str | None, name: str = "w", marked: bool = True, **entries: str) -> TensorProto:
    """A float[2] tensor whose data stand in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, dims=[2])
    if marked:
        tensor.data_location = TensorProto.EXTERNAL
    if location is not None:
        tensor.external_data.add(key="location", value=location)
    for key, entry in entries.items():
        tensor.external_data.add(key=key, value=entry)
    return tensor


def _external_entries_only() -> onnx.ModelProto:
    tensor = _outside("weights.bin", marked=False)
    tensor.raw_data = np.zeros(2, np.float32).tobytes()
    return _tiny(tensor)


def _sparse_external() -> onnx.ModelProto:
    made = _tiny()
    del made.graph.initializer[:]
    sparse = made.graph.sparse_initializer.add(dims=[2])
    sparse.values.CopyFrom(_outside("../../etc/passwd"))
    sparse.indices.CopyFrom(const("w_indices", [0, 1], np.int64))
    return made


def _external_in_attribute() -> onnx.ModelProto:
    made = _tiny(nodes=[helper.make_node("Constant", [], ["w"], value=_outside("../../etc/passwd")),
                        helper.make_node("Add", ["x", "w"], ["y"])])
    del made.graph.initializer[:]
    return made


def _external_in_sparse_attribute() -> onnx.ModelProto:
    made = _external_in_attribute()
    attribute = made.graph.node[0].attribute[0]
    sparse = onnx.SparseTensorProto(dims=[2])
    sparse.values.CopyFrom(_outside("../../etc/passwd"))
    sparse.indices.CopyFrom(const("indices", [0, 1], np.int64))
    attribute.ClearField("t")
    attribute.name, attribute.type = "sparse_value", onnx.AttributeProto.SPARSE_TENSOR
    attribute.sparse_tensor.CopyFrom(sparse)
    return made


def _external_in_subgraph() -> onnx.ModelProto:
    inside = helper.make_graph([helper.make_node("Add", ["x", "w"], ["inner"])], "then", [],
                               [value("inner", FLOAT, ["N", 2])], initializer=[_outside("../../etc/passwd")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["other"])], "else", [],
                              [value("other", FLOAT, ["N", 2])])
    return _tiny(const("on", True, bool),
                 [helper.make_node("If", ["on"], ["y"], then_branch=inside, else_branch=other)])


def _external_in_function() -> onnx.ModelProto:
    return _with_functions(_function("Shift", [
        helper.make_node("Constant", [], ["w"], value=_outside("../../etc/passwd")),
        helper.make_node("Add", ["a", "w"], ["b"])]), call="Shift")


# Domains, operators, fields and functions.

def _domain(domain: str, op: str, **attributes) -> onnx.ModelProto:
    made = _tiny(nodes=[helper.make_node(op, ["x", "w"], ["y"], domain=domain, **attributes)])
    if domain:
        made.opset_import.add(domain=domain, version=1)
    return made


def _training_info() -> onnx.ModelProto:
    made = _tiny()
    made.training_info.add().algorithm.CopyFrom(helper.make_graph(
        [helper.make_node("Identity", ["w"], ["w_new"])], "step", [], [value("w_new", FLOAT, [2])]))
    return made


def _unknown_field() -> bytes:
    return _tiny().SerializeToString(deterministic=True) + _field(99, b"smuggled")


def _unknown_field_in_node() -> bytes:
    """The same inside a node, three messages deep."""
    made = _tiny()
    node = made.graph.node[0].SerializeToString(deterministic=True) + _field(77, b"smuggled")
    del made.graph.node[:]
    graph = made.graph.SerializeToString(deterministic=True) + _field(1, node)
    made.ClearField("graph")
    return made.SerializeToString(deterministic=True) + _field(7, graph)


def _function(name: str, nodes: list) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], nodes,
                                [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)])


def _with_functions(*functions: onnx.FunctionProto, call: str) -> onnx.ModelProto:
    made = _tiny(nodes=[helper.make_node(call, ["x"], ["moved"], domain="local"),
                        helper.make_node("Add", ["moved", "w"], ["y"])])
    made.opset_import.add(domain="local", version=1)
    made.functions.extend(functions)
    return made


def _calls(op: str) -> list:
    return [helper.make_node(op, ["a"], ["b"], domain="local")]


def _function_bomb() -> onnx.ModelProto:
    """40 functions, each of which calls the one before twice: 2**40 nodes when they are written out."""
    functions = [_function("F0", [helper.make_node("Neg", ["a"], ["b"])])]
    for i in range(1, 41):
        functions.append(_function(f"F{i}", [helper.make_node(f"F{i - 1}", ["a"], ["c"], domain="local"),
                                             helper.make_node(f"F{i - 1}", ["c"], ["b"], domain="local")]))
    return _with_functions(*functions, call="F40")


def _uncalled_recursion() -> onnx.ModelProto:
    made = _tiny()
    made.opset_import.add(domain="local", version=1)
    made.functions.append(_function("Again", _calls("Again")))
    return made


def _function_ports() -> onnx.ModelProto:
    """The function has no inputs, and is called with one."""
    made = _with_functions(_function("Square", [helper.make_node("Mul", ["a", "a"], ["b"])]), call="Square")
    del made.functions[0].input[:]
    return made


def _versions(ir: int, *opsets: int) -> onnx.ModelProto:
    made = _tiny()
    made.ir_version = ir
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid("", opset) for opset in opsets)
    return made


# Depth.

def _nested_if(levels: int) -> onnx.ModelProto:
    """`levels` If inside one another, each in the first branch of the one around it."""
    nodes = [helper.make_node("Add", ["x", "w"], [f"y{levels}"])]
    for level in range(levels, 0, -1):
        inside = helper.make_graph(nodes, f"t{level}", [], [value(f"y{level}", FLOAT, ["N", 2])])
        other = helper.make_graph([helper.make_node("Identity", ["x"], [f"e{level}"])], f"e{level}", [],
                                  [value(f"e{level}", FLOAT, ["N", 2])])
        outer = f"y{level - 1}" if level > 1 else "y"
        nodes = [helper.make_node("If", ["on"], [outer], then_branch=inside, else_branch=other)]
    made = _tiny(nodes=nodes)
    made.graph.input.append(value("on", TensorProto.BOOL, []))
    return made


def _deep_nesting() -> bytes:
    """A graph in an attribute of a node of a graph, 1,000 times over."""
    graph = b""
    for _ in range(1000):
        attribute = _field(1, b"g") + _field(6, graph) + b"\xa0\x01\x05"  # type = GRAPH
        graph = _field(1, _field(4, b"If") + _field(5, attribute))
    made = _tiny()
    inner = made.graph.SerializeToString(deterministic=True) + graph
    made.ClearField("graph")
    return made.SerializeToString(deterministic=True) + _field(7, inner)


def _deep_types() -> bytes:
    """An input whose type is a sequence of sequences, 1,000 deep."""
    kind = value("x", FLOAT, ["N", 2]).type.SerializeToString(deterministic=True)
    for _ in range(1000):
        kind = _field(4, _field(1, kind))
    made = _tiny()
    del made.graph.input[:]
    inner = made.graph.SerializeToString(deterministic=True) + _field(11, _field(1, b"x") + _field(2, kind))
    made.ClearField("graph")
    return made.SerializeToString(deterministic=True) + _field(7, inner)


# Inputs, outputs and the sizes of tensors.

def _no_outputs() -> onnx.ModelProto:
    made = _tiny()
    del made.graph.output[:]
    return made


def _no_inputs() -> onnx.ModelProto:
    made = _tiny(nodes=[helper.make_node("Identity", ["w"], ["y"])])
    del made.graph.input[:]
    made.graph.output[0].CopyFrom(value("y", FLOAT, [2]))
    return made


def _named(name: str) -> onnx.ModelProto:
    """The input has another name."""
    made = _tiny()
    made.graph.input[0].name = made.graph.node[0].input[0] = name
    return made


def _typed(elem: int) -> onnx.ModelProto:
    """One more input, of that type."""
    made = _tiny()
    made.graph.input.append(value("more", elem, ["N"]))
    return made


def _sparse_bomb() -> onnx.ModelProto:
    """One value in 2**40."""
    made = _tiny()
    sparse = made.graph.sparse_initializer.add(dims=[1 << 20, 1 << 20])
    sparse.values.CopyFrom(const("s", [1]))
    sparse.indices.CopyFrom(const("s_indices", [0], np.int64))
    return made


def _computed_scales() -> onnx.ModelProto:
    return model("resize", [helper.make_node("Abs", ["s"], ["scales"]), helper.make_node("Resize", ["x", "", "scales"], ["y"])],
                 [value("x", FLOAT, ["N", 2]), value("s", FLOAT, ["S"])], [value("y", FLOAT, ["M", "K"])])


def _uneven_split() -> onnx.ModelProto:
    return model("split", [helper.make_node("Split", ["x"], ["y", "z"], axis=1, num_outputs=1)],
                 [value("x", FLOAT, [2, 8])], [value("y", FLOAT, [2, 4]), value("z", FLOAT, [2, 4])])


def _probit() -> onnx.ModelProto:
    node = helper.make_node("LinearClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", coefficients=[1.0, 1.0],
                            intercepts=[0.0], classlabels_ints=[0, 1], post_transform="PROBIT")
    made = model("probit", [node], [value("x", FLOAT, ["N", 2])], [value("y", FLOAT, ["N", 2])])
    made.opset_import.add(domain="ai.onnx.ml", version=3)
    return made


def _duplicate_output_names() -> onnx.ModelProto:
    made = _tiny()
    made.graph.output.append(made.graph.output[0])
    return made


def _weight(dims: list[int], elements: int) -> onnx.ModelProto:
    """The weight declares dims but holds that many elements. The graph takes a weight of any shape."""
    raw = np.ones(elements, np.float32).tobytes()
    return _tiny(TensorProto(name="w", data_type=FLOAT, dims=dims, raw_data=raw),
                 [helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
                  helper.make_node("Add", ["x", "sum"], ["y"])])


# What only a load or a run shows.

def _dangling_input() -> onnx.ModelProto:
    return _tiny(nodes=[helper.make_node("Add", ["x", "nowhere"], ["y"])])


def _type_mismatch() -> onnx.ModelProto:
    return _tiny(const("w", [1, 2], np.int64))


def _constant_bomb() -> onnx.ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c0"])]
    nodes += [helper.make_node("MatMul", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(60)]
    nodes += [helper.make_node("ReduceMax", ["c60"], ["m"], keepdims=0), helper.make_node("Add", ["x", "m"], ["y"])]
    return _tiny(const("s", [4096, 4096], np.int64), nodes)


def _endless_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["v", "w"], ["u"])], "b",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", FLOAT, ["N", 2])],
        [value("d", TensorProto.BOOL, []), value("u", FLOAT, ["N", 2])])
    return _tiny(nodes=[helper.make_node("Loop", ["", "", "x"], ["y"], body=body)])


def _empty_gru() -> onnx.ModelProto:
    """A layer of two units. Without a single sequence the runtime aborts, and the process with it."""
    return model("gru", [helper.make_node("GRU", ["x", "w", "r"], ["", "y"], hidden_size=2)],
                 [value("x", FLOAT, ["T", "N", 2])], [value("y", FLOAT, [1, "N", 2])],
                 [const("w", np.ones((1, 6, 2))), const("r", np.ones((1, 6, 2)))])


def _endless_dft() -> onnx.ModelProto:
    """The inverse of a one-sided transform; of one element it makes none, and takes for ever."""
    return model("irfft", [helper.make_node("DFT", ["x", "", "a"], ["y"], inverse=1, onesided=1)],
                 [value("x", FLOAT, ["N", "M", 2])], [value("y", FLOAT, ["N", "K", 1])], [const("a", 1, np.int64)])


FILES = [
    ("not_onnx.onnx", "not_onnx", _text, "a text file"),
    ("empty.onnx", "not_onnx", bytes, "no bytes at all"),
    ("pickle.onnx", "not_onnx", _pickle, "a Python pickle: people upload the model they trained instead of its export"),
    ("zip.onnx", "not_onnx", _zip, "a zip archive, as PyTorch's .pt files are"),
    ("huge_varint.onnx", "not_onnx", _huge_varint, "a length that is longer than any varint may be"),
    ("gzip.onnx", "not_onnx", _gzip, "a compressed file of zeros that unpacks to a thousand times its size"),
    ("zeros.onnx", "not_onnx", lambda: bytes(4096), "zeros"),
    ("ort_polyglot.onnx", "not_onnx", _polyglot, "a good model that a runtime might take for its own format and not for ONNX"),
    ("graph_twice.onnx", "not_onnx", _graph_twice, "a second graph, which protocol buffers merge with the first"),
    ("field_zero.onnx", "not_onnx", lambda: _plain() + b"\x02\x00", "a field of the number 0"),
    ("wide_tag.onnx", "unknown_field", lambda: _plain() + b"\xba\x80\x80\x80\x10\x00",
     "a field whose number is 7 (the graph) only when its tag is cut to 32 bits"),
    ("wide_type.onnx", "not_onnx", _wide_type, "an element type that is float only when it is cut to 32 bits"),
    ("group.onnx", "unknown_field", lambda: _plain() + b"\x2b\x2c", "a group, which ONNX does not use"),
    ("huge_count.onnx", "not_onnx", _huge_count, "a list of 2**40 bytes of integers in a file of two hundred"),
    ("attribute_type.onnx", "not_onnx", lambda: _attribute(type=onnx.AttributeProto.FLOAT, i=1),
     "an attribute that says it is a float and holds an integer"),
    ("attribute_empty.onnx", "not_onnx", lambda: _attribute(type=onnx.AttributeProto.GRAPH),
     "an attribute that says it is a graph and holds none"),
    ("attribute_reference.onnx", "not_onnx", lambda: _attribute(type=onnx.AttributeProto.INT, ref_attr_name="axis"),
     "an attribute that is to come from the call of a function, outside of functions"),
    ("attribute_twice.onnx", "duplicate_name", _attribute_twice, "two attributes of one name and two values"),
    ("old_format.onnx", "unsupported_version", lambda: _versions(2, 21), "version 2 of the format"),
    ("future_format.onnx", "unsupported_version", lambda: _versions(1000, 21), "version 1000 of the format"),
    ("no_opset.onnx", "unsupported_version", lambda: _versions(10), "no version of the operators"),
    ("future_opset.onnx", "unsupported_version", lambda: _versions(10, 1000), "version 1000 of the operators"),
    ("truncated.onnx", "truncated", _truncated, "the first half of a good file"),
    ("huge_length.onnx", "truncated", _huge_length, "the graph claims 2**62 bytes, and the file ends after a few"),
    ("external_parent.onnx", "external_data", lambda: _tiny(_outside("../../etc/passwd")),
     "weights in a file above the model's folder"),
    ("external_absolute.onnx", "external_data", lambda: _tiny(_outside("/etc/passwd", offset="0", length="8")),
     "weights in a file with an absolute path"),
    ("external_symlink.onnx", "external_data", lambda: _tiny(_outside("link")),
     "weights in a file beside the model, where a symbolic link may stand"),
    ("external_location_default.onnx", "external_data", lambda: _tiny(_outside(None)),
     "data_location is EXTERNAL without saying where"),
    ("external_entries_only.onnx", "external_data", _external_entries_only,
     "external_data entries though data_location says the data are inside"),
    ("external_memory_marker.onnx", "external_data",
     lambda: _tiny(_outside("*/_ORT_MEM_ADDR_/*", offset="4096", length="8")),
     "onnxruntime's own marker for weights at an address of its process"),
    ("sparse_external.onnx", "external_data", _sparse_external, "external data behind a sparse initializer"),
    ("external_in_attribute.onnx", "external_data", _external_in_attribute,
     "external data in the tensor of a Constant node"),
    ("external_in_sparse_attribute.onnx", "external_data", _external_in_sparse_attribute,
     "external data in the sparse tensor of a Constant node"),
    ("external_in_subgraph.onnx", "external_data", _external_in_subgraph, "external data in a branch of an If"),
    ("external_in_function.onnx", "external_data", _external_in_function,
     "external data in a node of a model-local function"),
    ("custom_domain.onnx", "unsupported_domain", lambda: _domain("com.example", "Add"),
     "an operator of a domain that is neither ONNX's own nor defined in the file"),
    ("ep_context.onnx", "unsupported_domain",
     lambda: _domain("com.microsoft", "EPContext", embed_mode=0, ep_cache_context="../../etc/passwd"),
     "an EPContext node, which makes the runtime read another file or a compiled program"),
    ("unknown_operator.onnx", "unsupported_operator", lambda: _domain("", "Frobnicate"),
     "an operator that the standard domain does not have"),
    ("training_info.onnx", "training", _training_info, "training information, which serving has no use for"),
    ("unknown_field.onnx", "unknown_field", _unknown_field, "a field of the model that the ONNX schema does not have"),
    ("unknown_field_in_node.onnx", "unknown_field", _unknown_field_in_node,
     "a field of a node that the ONNX schema does not have"),
    ("nested_if_8.onnx", "", lambda: _nested_if(8), "eight If inside one another are unusual, but welcome"),
    ("nested_if_22.onnx", "nesting", lambda: _nested_if(22),
     "22 If inside one another: onnxruntime 1.27 takes over 40 seconds to load them"),
    ("deep_nesting.onnx", "nesting", _deep_nesting, "1,000 graphs inside one another"),
    ("deep_types.onnx", "nesting", _deep_types, "an input that is a sequence of sequences, 1,000 deep"),
    ("local_function.onnx", "",
     lambda: _with_functions(_function("Square", [helper.make_node("Mul", ["a", "a"], ["b"])]), call="Square"),
     "a function that the file defines itself, in a domain of its own, is ordinary ONNX and welcome"),
    ("recursive_function.onnx", "recursive_function",
     lambda: _with_functions(_function("Again", _calls("Again")), call="Again"), "a function that calls itself"),
    ("recursive_pair.onnx", "recursive_function",
     lambda: _with_functions(_function("Ping", _calls("Pong")), _function("Pong", _calls("Ping")), call="Ping"),
     "two functions that call each other"),
    ("uncalled_recursion.onnx", "recursive_function", _uncalled_recursion, "a function that calls itself, and that nothing calls"),
    ("function_bomb.onnx", "too_many_nodes", _function_bomb, "functions that call one another 2**40 times"),
    ("function_ports.onnx", "unsupported_operator", _function_ports,
     "a function is called with more inputs than it has, on which onnxruntime 1.30 ends the process"),
    ("function_colon.onnx", "bad_name", lambda: _with_functions(_function("A:B", [helper.make_node("Neg", ["a"], ["b"])]), call="A:B"),
     "a function that the runtime would take for an overload of another, since it joins names by colons"),
    ("name_nul.onnx", "bad_name", lambda: _named("x\0hidden"), "the name of an input has a NUL, where runtimes see its end"),
    ("name_empty.onnx", "bad_name", lambda: _named(""), "an input without a name"),
    ("complex_input.onnx", "unsupported_type", lambda: _typed(TensorProto.COMPLEX64), "complex numbers, which no caller can send"),
    ("int4_input.onnx", "unsupported_type", lambda: _typed(TensorProto.INT4), "numbers of four bits, which no caller can send"),
    ("no_outputs.onnx", "no_outputs", _no_outputs, "a graph without outputs"),
    ("no_inputs.onnx", "no_inputs", _no_inputs, "a graph without inputs: a constant"),
    ("duplicate_output_names.onnx", "duplicate_name", _duplicate_output_names, "two outputs of one name"),
    ("overflow_dims.onnx", "size_overflow", lambda: _weight([3, 6148914691236517207], 5),
     "dimensions whose product wraps round to the five elements that are there"),
    ("huge_initializer.onnx", "too_large", lambda: _weight([65536, 65536], 0),
     "dimensions of 16 GiB in a file of a hundred bytes"),
    ("sparse_bomb.onnx", "too_large", _sparse_bomb, "a sparse weight of one value that the runtime writes out in four terabytes"),
    ("empty_raw.onnx", "bad_tensor", _empty_raw, "data in two places, of which the runtime takes the empty one"),
    ("dims_mismatch.onnx", "bad_tensor", lambda: _weight([2], 5), "two elements declared, five there"),
    ("negative_dim.onnx", "bad_tensor", lambda: _weight([-2], 2), "a negative dimension"),
    ("empty_initializer.onnx", "", lambda: _weight([0, 3], 0),
     "a weight of no elements: exporters write them for inputs left empty, and the file is welcome"),
    ("dangling_input.onnx", "load_failed", _dangling_input, "a node reads a value that nothing makes"),
    ("type_mismatch.onnx", "load_failed", _type_mismatch, "float32 and int64 are added"),
    ("constant_bomb.onnx", "run_timeout", _constant_bomb,
     "60 products of 4096 x 4096 matrices, too large to be computed when the model is loaded: about a minute for each run"),
    ("endless_loop.onnx", "run_timeout", _endless_loop, "a Loop without an end"),
    ("endless_dft.onnx", "unsupported_operator", _endless_dft,
     "an inverse one-sided DFT, on which onnxruntime 1.30 computes for ever when its axis has one element"),
    ("computed_scales.onnx", "unsupported_operator", _computed_scales,
     "a Resize whose scales are computed; onnxruntime 1.30 writes past its memory when they are too many"),
    ("uneven_split.onnx", "unsupported_operator", _uneven_split,
     "a Split with more outputs than num_outputs says, on which onnxruntime 1.30 ends the process when it loads it"),
    ("probit.onnx", "unsupported_operator", _probit,
     "a classifier with PROBIT, of whose scores onnxruntime 1.30 leaves some unset"),
    ("empty_gru.onnx", "", _empty_gru,
     "a recurrent layer is welcome; onnxruntime 1.30 does not survive an empty batch, which must be refused"),
] + hostile_runs.FILES

if __name__ == "__main__":
    main()
