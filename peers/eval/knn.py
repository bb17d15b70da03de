"""The search for nearest neighbours, ours and faiss's exact one (IndexFlatIP), in turn on this machine.

Run by `cargo xtask peers eval`. Rows are of length 1, so that inner products are cosines; times are of the search alone, which for ours
includes the norms.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import time

import faiss
import numpy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="the example `probes` of ijepa-eval")
    parser.add_argument("--folder", required=True, help="scratch")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = pathlib.Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)

    random = numpy.random.default_rng(0)
    train, queries = (random.standard_normal((rows, args.width), dtype=numpy.float32) for rows in (args.rows, args.queries))
    for name, values in (("train", train), ("queries", queries)):
        values /= numpy.linalg.norm(values, axis=1, keepdims=True)
        values.tofile(folder / f"{name}.f32")

    index = faiss.IndexFlatIP(args.width)
    index.add(train)
    ours, theirs, found = [], [], None
    for _ in range(args.rounds):
        began = time.perf_counter()
        _, found = index.search(queries, args.k)
        theirs.append(time.perf_counter() - began)
        command = [args.ours, "knn", str(folder), str(args.width), str(args.k)]
        ours.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["seconds"])
    rows = numpy.fromfile(folder / "nearest.u32", dtype=numpy.uint32).reshape(args.queries, args.k)
    same = numpy.mean([len(set(a) & set(b)) / args.k for a, b in zip(rows.tolist(), found.tolist())])
    print(json.dumps({
        "rows": args.rows, "queries": args.queries, "width": args.width, "k": args.k,
        "ours_s": statistics.median(ours), "faiss_s": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs), "same_neighbours": same,
        "ours_all_s": ours, "faiss_all_s": theirs, "faiss": faiss.__version__,
    }))


if __name__ == "__main__":
    main()
