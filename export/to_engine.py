"""ONNX graph -> engine, by one builder for TensorRT 10.16 and later, TensorRT 11, and TensorRT-RTX. Torch-free.

Networks are strongly typed: the graph says the precision of every tensor (float16 tensors, Q/DQ nodes), the only way
that TensorRT 11 has left. TensorRT builds for the GPU that it finds; TensorRT-RTX builds anywhere, for a compute
capability or for all GPUs since Ampere, and its kernels are compiled when the engine is opened.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.artifact import Engine, Manifest, OptimizationProfile, Runtime, command_of, file_sha256
from export.cuda import Cuda, UnavailableError
from export.engine_cache import EngineCache, known, remember
from export.flavour import RTX_GPUS, Watch, load, made, messages, monitor, runs_portable

OPTIMUM = 8  # the batch that kernels are chosen for
OPTIMIZATION_LEVEL = 3  # TensorRT's default: kernels are timed, and compiled where none fits
NOT_RUN = "built without running it"


class EngineError(ValueError):
    """A graph or a profile that TensorRT cannot build."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to build for: by the names of `Engine`; by default TensorRT-RTX's portable engine."""

    compute_capability: str | None = None
    gpu: str | None = None


def profile_for(max_batch_size: int) -> OptimizationProfile:
    return OptimizationProfile(minimum=1, optimum=min(OPTIMUM, max_batch_size), maximum=max_batch_size)


def rebuild_with(manifest: Manifest, cuda: Cuda) -> str:
    """What to do about an engine that does not fit the GPU here."""
    engine, here = manifest.engine, cuda.compute_capability
    if engine is not None and not (engine.compute_capability is None and runs_portable(here)):
        manifest = manifest.model_copy(update={"engine": engine.model_copy(update={"compute_capability": here})})
    return f"rebuild it: {command_of(manifest)}, or serve with SERVING_ENGINES=rebuild"


def to_engine(
    graph: Path,
    flavour: Runtime,
    profile: OptimizationProfile,
    built_for: Target,
    cache: EngineCache | None,
    watch: Watch | None = None,
) -> tuple[bytes, Engine]:
    """Build, or find in the cache; returns the serialized engine and its description, without measurements.

    Raises:
        EngineError: the graph cannot be built.
        UnavailableError: the flavour is not installed.
    """
    tensorrt = load(flavour)
    engine = Engine(
        flavour=flavour,
        version=tensorrt.__version__,
        onnx_sha256=file_sha256(graph),
        profile=profile,
        optimization_level=OPTIMIZATION_LEVEL if flavour is Runtime.TENSORRT else None,
        not_measured=NOT_RUN,
        **asdict(built_for),
    )
    if cache is None:
        return build(tensorrt, graph, engine, cache, watch), engine
    with cache.alone(engine):
        content = cache.find(engine)
        if content is None:
            content = build(tensorrt, graph, engine, cache, watch)
            cache.keep(engine, content)
    return content, engine


def target(flavour: Runtime, asked: str | None, cuda: Cuda | UnavailableError) -> Target:
    """For the compute capability that was asked for: TensorRT can only take the GPU at hand, TensorRT-RTX any.

    Raises:
        EngineError: TensorRT is asked for another one, or TensorRT-RTX for one that it does not know.
        UnavailableError: TensorRT has no GPU here.
    """
    if flavour is Runtime.TENSORRT_RTX:
        if asked not in (None, *RTX_GPUS):
            raise EngineError(f"tensorrt_rtx has no compute capability {asked}; it knows {', '.join(RTX_GPUS)}")
        return Target(asked)
    if isinstance(cuda, UnavailableError):
        raise UnavailableError(f"tensorrt builds for the GPU at hand, and there is {cuda}; tensorrt_rtx needs none")
    if asked not in (None, cuda.compute_capability):
        raise EngineError(f"tensorrt builds for the GPU at hand, which is {cuda}, not for {asked}; build there")
    return Target(cuda.compute_capability, cuda.name)


def build(tensorrt: Any, graph: Path, engine: Engine, cache: EngineCache | None, watch: Watch | None = None) -> bytes:
    log = messages(tensorrt)
    builder = made(tensorrt.Builder, log)
    network = parsed(tensorrt, builder, graph, log)
    config = builder.create_builder_config()
    progress = monitor(tensorrt, watch) if watch is not None else None
    if progress is not None:
        config.progress_monitor = progress
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    config.clear_flag(tensorrt.BuilderFlag.TF32)  # on by default: fp32 would keep 10 bits of a mantissa
    if config.add_optimization_profile(profiled(builder, network, engine.profile)) < 0:
        raise EngineError(f"{graph}: TensorRT refuses batches of {engine.profile} ({log})")
    timing = None
    if engine.flavour is Runtime.TENSORRT_RTX:
        set_targets(tensorrt, config, engine.compute_capability)
    else:
        config.builder_optimization_level = engine.optimization_level
        if cache is not None:
            timing = cache.timing(engine)
            if not config.set_timing_cache(config.create_timing_cache(known(timing)), ignore_mismatch=False):
                config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)  # it is of another GPU
    content = builder.build_serialized_network(network, config)  # never raises
    if progress is not None and progress.interrupted is not None:
        raise progress.interrupted
    if content is None:
        raise EngineError(f"{graph}: {engine.flavour} {engine.version} cannot build it: {log}")
    if timing is not None:
        remember(timing, bytes(config.get_timing_cache().serialize()))
    return bytes(content)


def parsed(tensorrt: Any, builder: Any, graph: Path, log: Any) -> Any:
    strongly_typed = 1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)  # another bit in 10 than in 11
    network = builder.create_network(strongly_typed)
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f"{graph}: the parser refuses it: {reasons}")
    return network


def profiled(builder: Any, network: Any, batches: OptimizationProfile) -> Any:
    """One profile for all inputs, whose batch axis alone is dynamic."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *rest = tensor.shape
        if batch != -1 or -1 in rest:
            raise EngineError(f"input {tensor.name} has shape {tuple(tensor.shape)}: the first axis alone may vary")
        sizes = (batches.minimum, batches.optimum, batches.maximum)
        profile.set_shape(tensor.name, *((size, *rest) for size in sizes))
    return profile


def set_targets(tensorrt: Any, config: Any, capability: str | None) -> None:
    """TensorRT-RTX's own: which GPUs, and that streams with the engine in them can be captured."""
    config.set_flag(tensorrt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if capability is None:
        return
    config.num_compute_capabilities = 1
    kind = getattr(tensorrt.ComputeCapability, f"SM{capability.replace('.', '')}")
    if not config.set_compute_capability(kind, 0):
        raise EngineError(f"tensorrt_rtx refuses the compute capability {capability}")
