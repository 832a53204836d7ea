"""What a scheduler's configuration says about the model that it was saved with: the rest of it is about sampling."""

from typing import Any

from ddo_engine.errors import CorruptCheckpoint

# They share parameters of the noise and their defaults, and differ in how they sample.
_DISCRETE = (
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
)
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_NOISE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def read_scheduler(raw: dict[str, Any], file_name: str) -> tuple[str, dict[str, Any]]:
    """Return the scheduler's class, and ``prediction`` and ``timesteps`` of a network's configuration, unchecked.

    Args:
        raw: Content of ``scheduler_config.json``.
        file_name: For messages.

    Raises:
        CorruptCheckpoint: The scheduler gives the network's timesteps another meaning than those that are supported.
    """
    name = str(raw.get("_class_name"))[:80]
    prediction = raw.get("prediction_type")
    if prediction is None:  # files from before there was a choice, or with their choice of two
        prediction = "sample" if raw.get("predict_epsilon") is False else "epsilon"
    if name in _EDM:
        facts = {"kind": "edm", "sigma_data": raw.get("sigma_data", 0.5)}
        return name, {"prediction": prediction, "timesteps": facts}
    if name not in _DISCRETE:
        raise CorruptCheckpoint(
            f"{file_name}: _class_name: models of a {name} are not supported; supported: {', '.join(_DISCRETE + _EDM)}",
            param="_class_name",
        )
    if raw.get("timestep_type", "discrete") != "discrete" or raw.get("use_flow_sigmas"):
        raise CorruptCheckpoint(
            f"{file_name}: timestep_type must be 'discrete' and use_flow_sigmas false: other models of a {name} are "
            "not supported",
            param="timestep_type",
        )
    facts = {"kind": "discrete"} | {key: raw[key] for key in _NOISE if key in raw}
    return name, {"prediction": prediction, "timesteps": facts}
