"""A tiny DINOv2 in the form in which Hugging Face keeps it, and its forward pass in NumPy."""

import json
from dataclasses import dataclass, field
from math import erf, sqrt
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WIDTH, HEADS, LAYERS, PATCH, SIDE = 32, 4, 2, 7, 28
Arrays = dict[str, np.ndarray]


@dataclass
class TinyDino:
    """Weights drawn at random, by their names in Hugging Face's files.

    Attributes:
        registers: Register tokens.
        gated: Whether its blocks have a gated (SwiGLU) layer, as the largest DINOv2 and Midnight-12k have.
        weights: By name.
    """

    registers: int = 0
    gated: bool = False
    weights: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        random = np.random.default_rng(5)

        def draw(name: str, *shape: int, about: float = 0.0) -> None:
            self.weights[name] = (about + random.normal(0, 0.3, shape)).astype(np.float32)

        draw("embeddings.cls_token", 1, 1, WIDTH)
        draw("embeddings.mask_token", 1, WIDTH)
        draw("embeddings.position_embeddings", 1, 1 + (SIDE // PATCH) ** 2, WIDTH)
        draw("embeddings.patch_embeddings.projection.weight", WIDTH, 3, PATCH, PATCH)
        draw("embeddings.patch_embeddings.projection.bias", WIDTH)
        if self.registers:
            draw("embeddings.register_tokens", 1, self.registers, WIDTH)
        for number in range(LAYERS):
            self._draw_block(draw, f"encoder.layer.{number}.")
        draw("layernorm.weight", WIDTH, about=1)
        draw("layernorm.bias", WIDTH)

    def _draw_block(self, draw: object, prefix: str) -> None:
        assert callable(draw)
        inner = (int(4 * WIDTH * 2 / 3) + 7) // 8 * 8
        first, second = ("weights_in", "weights_out") if self.gated else ("fc1", "fc2")
        shapes = {first: (2 * inner, WIDTH), second: (WIDTH, inner)}
        if not self.gated:
            shapes = {first: (4 * WIDTH, WIDTH), second: (WIDTH, 4 * WIDTH)}
        for name in ("norm1", "norm2"):
            draw(f"{prefix}{name}.weight", WIDTH, about=1)
            draw(f"{prefix}{name}.bias", WIDTH)
        dense = {f"attention.attention.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        dense |= {"attention.output.dense": (WIDTH, WIDTH)} | {f"mlp.{name}": shape for name, shape in shapes.items()}
        for name, shape in dense.items():
            draw(f"{prefix}{name}.weight", *shape)
            draw(f"{prefix}{name}.bias", shape[0])
        for name in ("layer_scale1", "layer_scale2"):
            draw(f"{prefix}{name}.lambda1", WIDTH, about=1)

    def write(self, folder: Path, mean: list[float] | None = None, std: list[float] | None = None) -> Path:
        """Write `config.json`, `model.safetensors` and, if a mean is given, `preprocessor_config.json`."""
        folder.mkdir(parents=True)
        config = {
            "architectures": ["Dinov2Model"],
            "attention_probs_dropout_prob": 0.0,
            "drop_path_rate": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": WIDTH,
            "image_size": SIDE,
            "layer_norm_eps": 1e-06,
            "layerscale_value": 1.0,
            "mlp_ratio": 4,
            "model_type": "dinov2_with_registers" if self.registers else "dinov2",
            "num_attention_heads": HEADS,
            "num_channels": 3,
            "num_hidden_layers": LAYERS,
            "patch_size": PATCH,
            "qkv_bias": True,
            "use_swiglu_ffn": self.gated,
        } | ({"num_register_tokens": self.registers} if self.registers else {})
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.weights, folder / "model.safetensors")
        if mean is not None:
            images = {"do_normalize": True, "image_mean": mean, "image_std": std}
            (folder / "preprocessor_config.json").write_text(json.dumps(images))
        return folder

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """The normalised tokens of the last block, float64 (n, tokens, WIDTH), of pixels (n, SIDE, SIDE, 3)."""
        w = {name: value.astype(np.float64) for name, value in self.weights.items()}
        n, across = len(pixels), SIDE // PATCH
        blocks = pixels.astype(np.float64).reshape(n, across, PATCH, across, PATCH, 3)
        kernel, bias = (w[f"embeddings.patch_embeddings.projection.{part}"] for part in ("weight", "bias"))
        patches = (np.einsum("nrycxk,okyx->nrco", blocks, kernel) + bias).reshape(n, -1, WIDTH)
        first = np.broadcast_to(w["embeddings.cls_token"], (n, 1, WIDTH))
        x = np.concatenate([first, patches], axis=1) + w["embeddings.position_embeddings"]
        if self.registers:
            registers = np.broadcast_to(w["embeddings.register_tokens"], (n, self.registers, WIDTH))
            x = np.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
        for number in range(LAYERS):
            prefix = f"encoder.layer.{number}."
            part = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
            x = x + part["layer_scale1.lambda1"] * _attention(_normalised(x, part, "norm1"), part)
            x = x + part["layer_scale2.lambda1"] * self._mlp(_normalised(x, part, "norm2"), part)
        return _normalised(x, w, "layernorm")

    def _mlp(self, x: np.ndarray, w: Arrays) -> np.ndarray:
        if self.gated:
            gate, value = np.split(_dense(x, w, "mlp.weights_in"), 2, axis=-1)
            return _dense(gate / (1 + np.exp(-gate)) * value, w, "mlp.weights_out")
        inner = _dense(x, w, "mlp.fc1")
        return _dense(inner * (1 + np.vectorize(erf)(inner / sqrt(2))) / 2, w, "mlp.fc2")


def _dense(x: np.ndarray, w: Arrays, name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _normalised(x: np.ndarray, w: Arrays, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _attention(x: np.ndarray, w: Arrays) -> np.ndarray:
    def heads(name: str) -> np.ndarray:
        return _dense(x, w, f"attention.attention.{name}").reshape(*x.shape[:2], HEADS, WIDTH // HEADS)

    scores = np.einsum("nqhd,nkhd->nhqk", heads("query"), heads("key")) / sqrt(WIDTH // HEADS)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhd->nqhd", shares, heads("value")).reshape(x.shape)
    return _dense(mixed, w, "attention.output.dense")
