"""Models trained with scikit-learn and converted with skl2onnx."""

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from casefile import Sample, session

OPSETS = {"": 21, "ai.onnx.ml": 3}

# One flower of each species that every sane classifier tells apart.
FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.7, 4.1, 1.2], [6.7, 3.1, 5.7, 2.4]], np.float32)

IRIS_CASES = {
    "one_row": {"X": FLOWERS[:1]},
    "three_species": {"X": FLOWERS},
    "doubtful": {"X": np.array([[6.0, 2.7, 5.1, 1.6], [5.9, 3.2, 4.8, 1.8]], np.float32)},
    "no_rows": {"X": np.zeros((0, 4), np.float32)},
    "edges": {"X": np.array([[-0.0, -0.0, -0.0, -0.0], [1e6, -1e6, 1e-6, 3.5], [0, 0, 0, 0]], np.float32)},
}


def iris() -> Sample:
    """Random forest; the ordinary classifier of the documentation."""
    data = load_iris()
    forest = RandomForestClassifier(n_estimators=15, max_depth=4, min_samples_leaf=3, random_state=7, n_jobs=1)
    forest.fit(data.data.astype(np.float32), data.target)
    return Sample("iris", _classifier(forest, "iris"), IRIS_CASES)


def iris_v2() -> Sample:
    """Scaled logistic regression with iris's signature and other probabilities: a new version to swap in."""
    data = load_iris()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    pipeline.fit(data.data.astype(np.float32), data.target)
    return Sample("iris_v2", _classifier(pipeline, "iris"), IRIS_CASES)


def _classifier(model, name: str) -> onnx.ModelProto:
    """Convert a classifier of four floats; outputs `label` and ZipMap `probabilities`, agreeing with scikit-learn."""
    proto = to_onnx(model, initial_types=[("X", FloatTensorType([None, 4]))], target_opset=OPSETS, name=name,
                    options={id(model): {"zipmap": True}})
    _rename_outputs(proto, ["label", "probabilities"])
    label, maps = session(proto.SerializeToString()).run(None, {"X": FLOWERS})
    assert label.tolist() == model.predict(FLOWERS).tolist() and len(set(label.tolist())) == 3, label
    wanted = model.predict_proba(FLOWERS)
    got = np.array([[entry[key] for key in model.classes_] for entry in maps])
    assert np.abs(got - wanted).max() < 1e-5, (got, wanted)
    assert wanted[0][0] > 0.9, wanted
    return proto


def _rename_outputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Give the graph's outputs these names; an inner value that bears one already steps aside."""
    renamed = {name: "inner_" + name for name in names}
    renamed |= dict(zip([v.name for v in proto.graph.output], names, strict=True))
    for node in proto.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    for value, name in zip(proto.graph.output, names):
        value.name = name
