"""Models trained with scikit-learn and converted with skl2onnx."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import corpus
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


def zipmap_strings() -> Sample:
    """Iris with the species' names as classes: string labels and a ZipMap with string keys."""
    data = load_iris()
    regression = LogisticRegression(max_iter=500)
    regression.fit(data.data.astype(np.float32), data.target_names[data.target])
    return Sample("zipmap_strings", _classifier(regression, "species"), IRIS_CASES)


def sentiment() -> Sample:
    """TF-IDF and logistic regression over strings: one text a row, its label and the two probabilities.

    skl2onnx writes a TfidfVectorizer with the Tokenizer of onnxruntime's own domain. Only the classifier is converted
    by it; the words are split and weighed by standard operators, so that the file needs no domain but ONNX's own.
    """
    texts = [text.strip().splitlines() for text in (corpus.NEGATIVE, corpus.POSITIVE)]
    lines = texts[0] + texts[1]
    labels = ["negative"] * len(texts[0]) + ["positive"] * len(texts[1])
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", norm="l2")
    features = vectorizer.fit_transform(lines).toarray().astype(np.float32)
    regression = LogisticRegression(C=10, max_iter=500).fit(features, labels)
    proto = _convert(regression, ("features", FloatTensorType([None, features.shape[1]])), "sentiment", zipmap=False)
    _prepend_words(proto, vectorizer)

    heard = session(proto.SerializeToString())
    unseen = ["The staff were kind and the food was delicious", "a boring evening and rude service"]
    for tried in (lines, unseen):
        got = heard.run(["probabilities"], {"text": np.array(tried, object)})[0]
        wanted = regression.predict_proba(vectorizer.transform(tried).toarray().astype(np.float32))
        assert np.abs(got - wanted).max() < 1e-5, np.abs(got - wanted).max()
    assert list(heard.run(["label"], {"text": np.array(unseen, object)})[0]) == ["positive", "negative"]
    return Sample("sentiment", proto, {
        "one_text": {"text": np.array(unseen[:1], object)},
        "several_texts": {"text": np.array([*unseen, "i loved it", "not recommended"], object)},
        "edges": {"text": np.array(["", "   ", "Ärger 世界 🦊", "LOVELY  lovely", "tab\tand\nbreak", "unheard of"],
                                   object)},
    })


def _prepend_words(proto: onnx.ModelProto, vectorizer: TfidfVectorizer) -> None:
    """Put in front of `features` what the vectorizer does: lower case, split at spaces, count, weigh, normalise."""
    words = vectorizer.get_feature_names_out().tolist()
    front = [
        # Locale C is there on every machine; the default, en_US, is not.
        helper.make_node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER", locale="C"),
        helper.make_node("StringSplit", ["lower"], ["words", "word_counts"]),
        helper.make_node("TfIdfVectorizer", ["words"], ["weighed"], mode="TFIDF", min_gram_length=1,
                         max_gram_length=1, max_skip_count=0, ngram_counts=[0], pool_strings=words,
                         ngram_indexes=list(range(len(words))), weights=vectorizer.idf_.astype(np.float32).tolist()),
        helper.make_node("Normalizer", ["weighed"], ["features"], domain="ai.onnx.ml", norm="L2"),
    ]
    nodes = front + [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]))


def _classifier(model, name: str) -> onnx.ModelProto:
    """Convert a classifier of four floats; outputs `label` and ZipMap `probabilities`, agreeing with scikit-learn."""
    proto = _convert(model, ("X", FloatTensorType([None, 4])), name, zipmap=True)
    label, maps = session(proto.SerializeToString()).run(None, {"X": FLOWERS})
    wanted = model.predict_proba(FLOWERS)
    assert list(label) == list(model.predict(FLOWERS)) == list(model.classes_), label
    got = np.array([[entry[key] for key in model.classes_] for entry in maps])
    assert np.abs(got - wanted).max() < 1e-5, (got, wanted)
    assert wanted[0][0] > 0.9, wanted
    return proto


def _convert(model, given: tuple, name: str, zipmap: bool) -> onnx.ModelProto:
    """Convert a classifier with outputs `label` and `probabilities`."""
    proto = to_onnx(model, initial_types=[given], target_opset=OPSETS, name=name,
                    options={id(model): {"zipmap": zipmap}})
    imports = sorted(proto.opset_import, key=lambda entry: entry.domain)  # skl2onnx keeps them in a set
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    _rename_outputs(proto, ["label", "probabilities"])
    return proto


def _rename_outputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Give the graph's outputs these names; an inner value that bears one already steps aside."""
    renamed = {name: "inner_" + name for name in names}
    renamed |= dict(zip([v.name for v in proto.graph.output], names, strict=True))
    for node in proto.graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    for value in proto.graph.output:
        value.name = renamed[value.name]
