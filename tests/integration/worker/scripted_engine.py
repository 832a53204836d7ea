"""Stands in for ``python -m ddo_engine``: speaks its protocol at once, and misbehaves on request.

Its numbers and bytes are functions of spec and step, so that a resumed trial repeats them. What it shall do is in the
JSON file that ``SCRIPT`` names: per kind (or ``trial`` + alpha, or ``mle``) a mapping with

    steps, step_seconds     length of a trial, other kinds last ``step_seconds``
    end                     "abort" | "silent_exit" | "diverge" | "hang" | "garbage" instead of the work
    converted               files that the report of ``validate`` names; relative ones are written first
    only_attempts           how many runs misbehave, counted in the log; all by default

Every run appends ``kind position-of-start pid`` to ``LOG``.
"""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

stop_requests = []


def say(**event):
    print(json.dumps(event), flush=True)


def wrote(role, path, kimg=None, **info):
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    say(type="file", role=role, path=str(path), sha256=sha256, size_bytes=len(data), kimg=kimg, info=info)


def main():
    signal.signal(signal.SIGTERM, lambda *_: stop_requests.append(1))
    spec = json.loads(Path(sys.argv[4]).read_text())
    workdir = Path(sys.argv[sys.argv.index("--workdir") + 1])
    script = json.loads(Path(os.environ["SCRIPT"]).read_text())
    kind = spec["kind"]
    name = kind
    if kind == "trial":
        objective = spec["objective"]
        name = f"trial {objective['alpha']}" if objective["kind"] == "ddo" else objective["kind"]
    todo = {**script.get(kind, {}), **script.get(name, {})}
    state = json.loads(Path(spec["state"]["path"]).read_text()) if spec.get("state") else {"step": 0}
    log = Path(os.environ["LOG"])
    runs = sum(line.startswith(f"{name} from") for line in log.read_text().splitlines()) if log.exists() else 0
    with log.open("a") as file:
        file.write(f"{name} from {state['step']} pid {os.getpid()}\n")
    say(type="started", command=sys.argv[3], device="cpu", torch_version="none")
    if runs < todo.get("only_attempts", 10**9):
        misbehave(todo.get("end"))
    if kind == "trial":
        train(spec, state["step"], workdir, todo)
    else:
        wait(todo.get("step_seconds", 0.0))
        if kind == "validate":
            info = {"num_images": 3, "img_resolution": 8, "img_channels": 1, "class_counts": []}
            checkpoint = {"family": "edm", "network": "MLP", "num_parameters": 1, "img_resolution": 8}
            checkpoint |= {"img_channels": 1, "label_dim": 0}
            converted = [] if runs >= todo.get("only_attempts", 10**9) else todo.get("converted", [])
            say(type="report", checkpoint=checkpoint, dataset=info, converted=convert(workdir, converted))
        elif kind == "reference":
            path = workdir / "reference-set.zip"
            path.write_text(f"reference {spec['first_seed']} {spec['num_samples']}")
            wrote("reference_set", path)
        else:
            for settings in spec["evaluations"]:
                evaluate(Path(spec["checkpoint"]["path"]), settings, spec["sampler"], 0.0)
    say(type="finished")


def misbehave(end):
    if end == "abort":
        print("about to abort", file=sys.stderr, flush=True)
        os.abort()
    if end == "silent_exit":
        sys.exit(0)
    if end == "diverge":
        say(
            type="error",
            code="diverged",
            message="the loss is not finite after 3 steps",
            param="training.learning_rate",
        )
        sys.exit(70)
    if end == "out_of_memory":
        say(type="error", code="out_of_memory", message="out of memory", param="training.batch_size")
        sys.exit(71)
    if end == "garbage":
        say(type="file", role="checkpoint", path="/etc/passwd", sha256="0" * 64, size_bytes=1, kimg=1.0)
    if end == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def convert(workdir, paths):
    files = {}
    for network, path in paths:
        if not path.startswith(("/", ".")):
            (workdir / path).write_text(f"converted {network}")
        data = (workdir / path).read_bytes()
        files[network] = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    return files


def train(spec, first, workdir, todo):
    steps = todo.get("steps", 4)
    for step in range(first + 1, steps + 1):
        wait(todo.get("step_seconds", 0.0))
        if stop_requests:
            save_state(workdir, step - 1)
            say(type="error", code="interrupted", message="stopped on request")
            sys.exit(75)
        say(type="metric", step=step, kimg=float(step), values={"loss": 1.0 / step})
        say(type="progress", phase="training", done=step, total=steps)
        if step % 2 == 0:
            path = workdir / f"checkpoint-{step}.safetensors"
            path.write_text(f"{spec['seed']} {spec['objective'].get('alpha')} {step}")
            wrote("checkpoint", path, float(step), provenance={"kimg": float(step)})
            evaluate(path, spec["evaluation"], spec["sampler"], float(step))
        save_state(workdir, step)


def save_state(workdir, step):
    temporary = workdir / "state.tmp"
    temporary.write_text(json.dumps({"step": step}))
    path = workdir / "state.safetensors"
    temporary.replace(path)
    wrote("state", path, float(step))


def evaluate(path, settings, sampler, kimg):
    scale = {"guidance_scale": sampler["guidance_scale"]}
    protocol = {"num_samples": settings["num_samples"], "seed": settings["seed"], "sampler": scale}
    fingerprint = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    digest = hashlib.sha256(path.read_bytes()).digest()
    # the base is the file that says so; everything trained is better than it
    fid = 100.0 if path.read_bytes().startswith(b"base") else digest[0] / 10.0
    metrics = {"fid": fid, "precision": 0.5}
    say(type="evaluation", kimg=kimg, fingerprint=fingerprint, protocol=protocol, metrics=metrics)


def wait(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not stop_requests:
        time.sleep(min(0.02, seconds))


if __name__ == "__main__":
    main()
