"""Does onnxruntime compute from an exported model what our own program computed?

    python onnx_check.py encoder MODEL.onnx CASE.safetensors ...      CASE: images, tokens, pooled
    python onnx_check.py predictor MODEL.onnx CASE.safetensors ...    CASE: context, context_patches, target_patches, predictions

All cases go through one session, so that cases of different sizes prove that the free dimensions are free. Prints one JSON object:
for each output the largest absolute difference over all cases, and milliseconds of each case (the median of --repeat runs).
Needs numpy, onnx, onnxruntime and safetensors; ends with an error when the model is not valid ONNX, a shape differs or a
number is not finite.
"""

import argparse
import json
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from safetensors.numpy import load_file

INPUTS = {"encoder": ["images"], "predictor": ["context", "context_patches", "target_patches"]}
OUTPUTS = {"encoder": ["tokens", "pooled"], "predictor": ["predictions"]}


def difference(name, got, expected):
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise SystemExit(f"{name}: expected {expected.dtype}{expected.shape}, got {got.dtype}{got.shape}")
    if not (np.isfinite(got).all() and np.isfinite(expected).all()):
        raise SystemExit(f"{name}: expected finite numbers, got others")
    return float(np.abs(got.astype(np.float64) - expected).max())


def median_ms(run, repeat):
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(INPUTS))
    parser.add_argument("model")
    parser.add_argument("cases", nargs="+", metavar="CASE.safetensors")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as onnxruntime likes")
    parser.add_argument("--repeat", type=int, default=1, help="timed runs of each case")
    options = parser.parse_args()

    onnx.checker.check_model(options.model, full_check=True)  # by path, which finds weights in another file
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
    inputs, outputs = INPUTS[options.kind], OUTPUTS[options.kind]
    for found, expected in [(session.get_inputs(), inputs), (session.get_outputs(), outputs)]:
        if [value.name for value in found] != expected:
            raise SystemExit(f"expected {expected}, got {[value.name for value in found]}")

    report = {"onnxruntime": onnxruntime.__version__, "batches": [], "ms": [], **dict.fromkeys(outputs, 0.0)}
    for path in options.cases:
        case = load_file(path)
        given = {name: case[name] for name in inputs}
        for name, got in zip(outputs, session.run(outputs, given)):
            report[name] = max(report[name], difference(f"{path}: {name}", got, case[name]))
        report["batches"].append(len(given[inputs[0]]))
        report["ms"].append(median_ms(lambda: session.run(outputs, given), options.repeat))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
