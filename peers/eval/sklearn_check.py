"""Predictions of our probes and of scikit-learn's on the same features.

Run by `cargo xtask peers eval`. Features are clouds with noise, or what `ijepa embed` wrote: PREFIX.npy and PREFIX.labels.npy.
"""

import argparse
import json
import pathlib
import subprocess

import numpy
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

K, TEMPERATURE, PENALTY, STRENGTH = 20, 0.07, 1e-3, 0.0025


def clouds(rows, width, classes, seed):
    random = numpy.random.default_rng(seed)
    centres = numpy.random.default_rng(0).standard_normal((classes, width)) * 0.35
    labels = random.integers(0, classes, rows)
    values = random.standard_normal((rows, width)) + centres[labels]
    return (values * (0.5 + numpy.arange(width) % 5) + 1).astype(numpy.float32), labels


def embeddings(prefix):
    return numpy.load(f"{prefix}.npy").astype(numpy.float32), numpy.load(f"{prefix}.labels.npy").astype(numpy.int64)


def unit(values):
    values = values.astype(numpy.float64)
    values -= values.mean(axis=1, keepdims=True)
    return values / numpy.linalg.norm(values, axis=1, keepdims=True)


def theirs(train, labels, queries):
    weights = {"knn_weighted": lambda distance: numpy.exp((1 - distance) / TEMPERATURE), "knn_plain": "uniform"}
    for name, weight in weights.items():
        model = KNeighborsClassifier(K, metric="cosine", algorithm="brute", weights=weight)
        yield name, model.fit(train, labels).predict(queries)
    scaler = StandardScaler().fit(train.astype(numpy.float64))
    scaled, scaled_queries = scaler.transform(train.astype(numpy.float64)), scaler.transform(queries.astype(numpy.float64))
    options = {"tol": 1e-8, "max_iter": 20_000}
    model = LogisticRegression(C=1 / (PENALTY * len(train)), **options).fit(scaled, labels)
    yield "logistic", model.predict(scaled_queries)
    model = LogisticRegression(C=1 / STRENGTH, fit_intercept=False, **options).fit(unit(train), labels)
    yield "msn", model.predict(unit(queries))
    model = RidgeClassifier(alpha=PENALTY * len(train)).fit(scaled, labels)
    yield "ridge", model.predict(scaled_queries)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the example `probes` of ijepa-eval")
    parser.add_argument("--folder", required=True, help="scratch")
    parser.add_argument("--train", help="PREFIX of the training embeddings")
    parser.add_argument("--val", help="PREFIX of the embeddings to judge on")
    args = parser.parse_args()
    folder = pathlib.Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.train:
        (train, labels), (queries, query_labels) = embeddings(args.train), embeddings(args.val)
    else:
        (train, labels), (queries, query_labels) = clouds(6000, 96, 10, 1), clouds(6000, 96, 10, 2)

    # A quantity that the features tell in part.
    random = numpy.random.default_rng(5)
    rule = random.standard_normal(train.shape[1])
    noise = lambda values: 3 * numpy.std(values) * random.standard_normal(len(values)) + 100
    targets, query_targets = (numpy.float32(values @ rule + noise(values @ rule)) for values in (train, queries))
    for name, values in (("train.f32", train), ("queries.f32", queries), ("targets.f32", targets), ("query_targets.f32", query_targets)):
        values.tofile(folder / name)
    for name, values in (("labels.u32", labels), ("query_labels.u32", query_labels)):
        values.astype(numpy.uint32).tofile(folder / name)
    settings = [train.shape[1], K, TEMPERATURE, PENALTY, STRENGTH]
    command = [args.ours, "agree", str(folder), *map(str, settings)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)

    out = {"rows": len(train), "queries": len(queries), "width": train.shape[1]}
    for name, predicted in theirs(train, labels, queries):
        ours = numpy.fromfile(folder / f"{name}.u32", dtype=numpy.uint32)
        out[name] = {
            "agreement": float(numpy.mean(ours == predicted)),
            "ours": float(numpy.mean(ours == query_labels)),
            "theirs": float(numpy.mean(predicted == query_labels)),
        }
    scaler = StandardScaler().fit(train.astype(numpy.float64))
    model = Ridge(alpha=PENALTY * len(train)).fit(scaler.transform(train.astype(numpy.float64)), targets)
    predicted = model.predict(scaler.transform(queries.astype(numpy.float64)))
    out["regression"] = {
        "r_squared": [report["r_squared"], float(r2_score(query_targets, predicted))],
        "absolute_error": [report["absolute_error"], float(mean_absolute_error(query_targets, predicted))],
        "baseline": [report["baseline"], float(numpy.mean(numpy.abs(query_targets - targets.mean(dtype=numpy.float64))))],
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
