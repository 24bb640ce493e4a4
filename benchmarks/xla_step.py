"""How fast XLA runs this package's training step and inference on a GPU (or CPU), next to PyTorch on the same device.

    python benchmarks/xla_step.py dump --flagfile=configs/thumos14.flags --folder=programs   # needs TensorFlow
    python benchmarks/xla_step.py run --folder=programs --json=xla.json                      # needs JAX
    python benchmarks/xla_step.py pytorch --folder=programs                                  # needs PyTorch

``dump`` writes what ``tf.function(jit_compile=True)`` hands to XLA: the step for --batches windows, the forward pass of
--sizes windows, and a whole sequence up to its candidates, in float32 and bfloat16. The files are small (5 MB for the
paper's network): carry them to a machine whose GPU is to be measured. ``run`` compiles them with jaxlib, runs them with
the same weights and batch, and refuses if losses or outputs are not TensorFlow's. Where PyTorch is installed it takes
turns with it: eager and compiled (torch.compile), TF32 on, the network of benchmarks/pytorch_a2net.py. Times are those
of many calls that are enqueued one after the other and waited for once, as in training. "of matrix rate" is the work's
multiply-adds over what a large product in bfloat16 reaches on this device, float32 (TF32) rows included.
"""

import argparse
import functools
import math
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout runs without being installed

import numpy as np

from a2net_tf import safe_files, settings
from a2net_tf.errors import UserError
from a2net_tf.report.text_tables import align
from benchmarks import measure, synthetic

PRODUCT_SIZE = 8192
# Of a mean loss, or of an output's mean size. Products in TF32 have 10 bits, in bfloat16 7.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2}
PROGRAMS = "programs.json"

Call = Callable[[int], None]  # does something so many times, and returns when it is done


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    try:
        options, rest = _parse(sys.argv[1:] if arguments is None else list(arguments))
        if options.command == "dump":
            _dump(options, rest)
            return 0
        rows = measure_folder(options)
        print("\n".join(["", format_rows(rows)]))
        if options.json:
            safe_files.write_json(options.json, {"device": rows[0]["device"], "rows": rows})
            print(f"written: {options.json}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=("dump", "run", "pytorch"))
    parser.add_argument("--folder", required=True, type=pathlib.Path, help="of the programs")
    parser.add_argument("--batches", default="32,128", help="dump: windows of a training step (default %(default)s)")
    parser.add_argument("--sizes", default="1,32,256", help="dump: windows of a forward pass (default %(default)s)")
    parser.add_argument(
        "--precisions",
        default="float32,bfloat16",
        choices=("float32,bfloat16", "float32", "bfloat16"),
        help="dump: of each (default %(default)s)",
    )
    parser.add_argument("--only", default="", help="run, pytorch: programs whose names hold this")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a turn lasts (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default %(default)s)")
    parser.add_argument("--nopytorch", action="store_true", help="run: XLA alone")
    parser.add_argument("--nocompile", action="store_true", help="run, pytorch: without torch.compile")
    parser.add_argument("--json", default="", help="file to write the figures to")
    options, rest = parser.parse_known_args(arguments)
    if options.command != "dump" and rest:
        raise UserError(f"{rest[0]}: no option of {options.command}; settings of the network are in {PROGRAMS}")
    for name in ("batches", "sizes"):
        values = getattr(options, name).split(",")
        if not all(value.isdigit() and int(value) for value in values):
            raise UserError(f"--{name}={getattr(options, name)}: expected whole numbers >= 1 between commas")
        setattr(options, name, [int(value) for value in values])
    if options.json:
        safe_files.check_writable(options.json)
    return options, rest


def _dump(options: argparse.Namespace, rest: Sequence[str]) -> None:
    config, _ = settings.parse(rest)
    if not (config.num_features and config.num_classes):
        raise UserError("--num_features and --num_classes are needed, for example 150 and 12 with configs/hapt.flags")
    from benchmarks import xla_dump

    xla_dump.dump(
        config, options.folder, batches=options.batches, sizes=options.sizes, precisions=options.precisions.split(",")
    )
    print(f"written: {options.folder}")


# Measuring


def measure_folder(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures every program of the folder; one row each for XLA and for each form of PyTorch."""
    content = safe_files.read_json(options.folder / PROGRAMS)
    entries = [entry for entry in content["programs"] if options.only in entry["name"]]
    if not entries:
        raise UserError(f"{options.folder / PROGRAMS}: no program whose name holds '{options.only}'")
    side = XlaSide(options.folder, content["settings"]) if options.command == "run" else None
    rival = _find_rival(options, content["settings"])
    device = side.describe() if side else rival.describe()
    rate = side.matrix_rate() if side else rival.matrix_rate()
    print(f"{device}: {rate / 1e12:.0f} T multiply-adds/s in a product of {PRODUCT_SIZE} x {PRODUCT_SIZE} in bfloat16")
    rows = []
    for entry in entries:
        print(f"measuring {entry['name']}", file=sys.stderr, flush=True)
        calls = side.calls(entry) if side else {}
        if rival:
            calls |= rival.calls(entry)
        times = take_turns(calls, rounds=options.rounds, seconds=options.seconds)
        measured = [_make_row(entry, name, times, rate, device) for name in times]
        if side:
            measured[0]["peak_megabytes"] = side.peak_megabytes()
        print(format_rows(measured), flush=True)
        rows += measured
    return rows


def take_turns(calls: Mapping[str, Call], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of one call, by name and round. All of a turn's calls are waited for once."""
    numbers = {}
    for name, call in calls.items():
        call(3)  # compiles, plans
        once = measure.timed(lambda call=call: call(3)) / 3
        numbers[name] = max(1, int(seconds / once))
    repeated = {name: functools.partial(call, numbers[name]) for name, call in calls.items()}
    times = measure.take_turns(repeated, rounds=rounds, seconds=0.0, budget_seconds=math.inf)
    return {name: [t / numbers[name] for turn in times[name] for t in turn] for name in calls}


def _make_row(
    entry: Mapping[str, Any], name: str, times: Mapping[str, Sequence[float]], rate: float, device: str
) -> dict[str, Any]:
    seconds = float(np.median(times[name]))
    row = {
        "program": entry["name"],
        "name": name,
        "device": device,
        "ms": [1000 * t for t in times[name]],
        "windows_per_second": entry["windows"] / seconds,
        "rate_share": entry["multiply_adds"] / seconds / rate,
    }
    for rival in ("PyTorch eager", "PyTorch compiled"):
        if rival in times and name != rival:
            row[f"{rival} ratio"] = float(np.median(times[rival])) / seconds
    return row


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    header = ["program", "", "ms", "windows/s", "of matrix rate", "x PyTorch eager", "x compiled", "peak MB"]
    return align([header, *map(_cells, rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    ratios = [row.get(f"{rival} ratio") for rival in ("PyTorch eager", "PyTorch compiled")]
    return [
        row["program"],
        row["name"],
        f"{np.median(row['ms']):.3f}",
        f"{row['windows_per_second']:.0f}",
        f"{row['rate_share']:.1%}",
        *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{row['peak_megabytes']:.0f}" if "peak_megabytes" in row else "-",
    ]


# XLA


class XlaSide:
    """Programs on the first device that JAX has.

    Args:
        folder: of the programs.
        values: settings of the network.
    """

    def __init__(self, folder: pathlib.Path, values: Mapping[str, Any]):
        try:
            import jax
        except ModuleNotFoundError:
            raise UserError("JAX is not installed: pip install jax, or jax[cuda13] for an NVIDIA GPU") from None
        jax.config.update("jax_enable_x64", True)  # the number of a step has 64 bits
        self._jax, self._folder, self._values, self._device = jax, folder, values, jax.devices()[0]

    def describe(self) -> str:
        """The device."""
        return f"{self._device.device_kind}, JAX {self._jax.__version__}"

    def matrix_rate(self) -> float:
        """Multiply-adds a second of a large product in bfloat16."""
        size = PRODUCT_SIZE if self._device.platform != "cpu" else 1024
        a = self._jax.random.normal(self._jax.random.key(0), (size, size), "bfloat16")
        multiply = self._jax.jit(lambda a, b: a @ b)

        def call(number):
            for _ in range(number):
                c = multiply(a, a)
            c.block_until_ready()

        return size**3 / min(take_turns({"product": call}, rounds=5, seconds=0.2)["product"])

    def peak_megabytes(self) -> float:
        """The most memory that this process's programs have had on the device so far; 0 where JAX does not say."""
        return (self._device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 1e6

    def calls(self, entry: Mapping[str, Any]) -> dict[str, Call]:
        """The program, compiled and checked.

        Raises:
            UserError: it does not compute what TensorFlow did.
        """
        program = Program(self._folder, entry, self._values, self._device)
        program.check()
        return {"XLA": program.call}


class Program:
    """A compiled program with the values of its parameters on the device.

    Args:
        folder: of the programs.
        entry: of its programs.json.
        values: settings there.
        device: of JAX.
    """

    def __init__(self, folder: pathlib.Path, entry: Mapping[str, Any], values: Mapping[str, Any], device: Any):
        import jax
        from jaxlib import _jax, xla_client

        self.entry = entry
        serialized = (folder / f"{entry['name']}.hlo").read_bytes()
        module = _jax.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(serialized))
        # TensorFlow marks what it returns with copies, which JAX's devices do not know and which mean nothing there.
        module = re.sub(r"= mhlo\.copy (%\S+) : (tensor<\S+>)", r"= stablehlo.reshape \1 : (\2) -> \2", module)
        devices = _jax.DeviceList((device,))
        start = time.perf_counter()
        self._compiled = device.client.compile_and_load(module, devices, xla_client.CompileOptions())
        print(f"  compiled in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        inputs = make_inputs(entry, values)
        self._parameters = [jax.device_put(make_value(p, inputs), device) for p in entry["parameters"]]

    def call(self, number: int) -> list[Any]:
        """So many times, each with the variables that the one before has left; the outputs of the last one."""
        for _ in range(number):
            outputs = self._run()
        outputs[0].block_until_ready()
        return outputs

    def _run(self) -> list[Any]:
        results = self._compiled.execute_sharded(self._parameters).disassemble_into_single_device_arrays()
        outputs = [result[0] for result in results]
        for output, parameter in self.entry["aliases"]:  # the memory of the parameter is now the output's
            self._parameters[parameter] = outputs[output]
        return outputs

    def check(self) -> None:
        """Raises UserError if losses, or sizes of outputs, are not those of the entry."""
        if "mean_losses" in self.entry:
            expected = self.entry["mean_losses"]
            actual = [float(self.call(1)[0]) for _ in expected]
        elif "mean_sizes" in self.entry:
            expected = self.entry["mean_sizes"]
            actual = [float(np.abs(np.asarray(output, np.float32)).mean()) for output in self.call(1)]
        else:
            return
        print(f"  TensorFlow on a CPU: {expected}\n  here:                {actual}", file=sys.stderr, flush=True)
        tolerance = TOLERANCES[self.entry["precision"]]
        if not np.allclose(actual, expected, rtol=tolerance, atol=tolerance * max(map(abs, expected))):
            raise UserError(f"{self.entry['name']}: expected {expected} as TensorFlow computed, found {actual}")


def make_inputs(entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The program's own inputs, with the settings ``values``: a batch, windows or a sequence."""
    if entry["kind"] == "step":
        config = settings.from_dict({**values, "batch_size": entry["windows"]})
        return {f"batch/{name}": value for name, value in synthetic.training_batch(config).items()}
    ((name, shape),) = ((p["input"], p["shape"]) for p in entry["parameters"] if "input" in p)
    return {name: np.random.default_rng(0).standard_normal(shape, np.float32)}


def make_value(parameter: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The value of a parameter as its entry describes it."""
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if parameter["dtype"] == "bfloat16" else np.dtype(parameter["dtype"])
    if "input" in parameter:
        return inputs[parameter["input"]]
    if "kernel" in parameter:
        return synthetic.kernel(parameter["kernel"], tuple(parameter["shape"])).astype(dtype)
    if "fill" in parameter:
        return np.full(parameter["shape"], parameter["fill"], dtype)
    return np.asarray(parameter["values"], dtype)


# PyTorch


class PyTorchSide:
    """The same work by benchmarks/pytorch_a2net.py, on a GPU if there is one.

    Args:
        values: settings of the network.
        forms: of ``PyTorch eager`` and ``PyTorch compiled``, those to measure.
    """

    def __init__(self, values: Mapping[str, Any], forms: Sequence[str]):
        import torch

        from benchmarks import pytorch_a2net

        self._torch, self._rival, self._values, self._forms = torch, pytorch_a2net, values, forms
        self._device = pytorch_a2net.start(measure.default_threads())

    def describe(self) -> str:
        """The device."""
        name = self._torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu"
        return f"{name}, PyTorch {self._torch.__version__}"

    def matrix_rate(self) -> float:
        """Multiply-adds a second of a large product in bfloat16."""
        size = PRODUCT_SIZE if self._device.type == "cuda" else 1024
        a = self._torch.randn((size, size), dtype=self._torch.bfloat16, device=self._device)
        call = self._repeated(lambda: a @ a)
        return size**3 / min(take_turns({"product": call}, rounds=5, seconds=0.2)["product"])

    def calls(self, entry: Mapping[str, Any]) -> dict[str, Call]:
        """By form; none of a sequence, which PyTorch's network has no graph for."""
        make = {"step": self._step, "forward": self._forward}.get(entry["kind"])
        return {form: self._repeated(make(entry, form == "PyTorch compiled")) for form in self._forms} if make else {}

    def _step(self, entry: Mapping[str, Any], compiled: bool) -> Callable[[], Any]:
        config = settings.from_dict({**self._values, "batch_size": entry["windows"]})
        batch = synthetic.training_batch(config)
        training = self._rival.Training(config, batch, self._device, precision=entry["precision"], compiled=compiled)
        return training.enqueue_step

    def _forward(self, entry: Mapping[str, Any], compiled: bool) -> Callable[[], Any]:
        config = settings.from_dict(self._values)
        dtype = getattr(self._torch, entry["precision"])
        network = self._rival.A2Net(config, config.num_features, config.num_classes).to(self._device, dtype).eval()
        features = self._rival.to_device(synthetic.random_windows(config, entry["windows"]), self._device).to(dtype)
        run = self._torch.compile(network, dynamic=False) if compiled else network
        return self._torch.inference_mode()(lambda: run(features))

    def _repeated(self, once: Callable[[], Any]) -> Call:
        def call(number):
            for _ in range(number):
                once()
            self._rival.synchronize()

        return call


def _find_rival(options: argparse.Namespace, values: Mapping[str, Any]) -> PyTorchSide | None:
    """None where PyTorch is not wanted, or (for ``run``) not installed."""
    forms = ["PyTorch eager"] if options.nocompile else ["PyTorch eager", "PyTorch compiled"]
    if options.nopytorch:
        return None
    try:
        return PyTorchSide(values, forms)
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
    if options.command == "pytorch":
        raise UserError('PyTorch is not installed: pip install "torch"')
    print("no rows of PyTorch: torch is not installed", file=sys.stderr)
    return None


if __name__ == "__main__":
    sys.exit(main())
