"""How large the models of the reference family are, and how each is built from its configuration."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

#: BOS and EOS (which also pads) of the family's tokenizer.
BOS, EOS = 0, 1


@dataclass(frozen=True)
class Shape:
    """Widths and depths. The default is the committed family: 64 px images, latents (8, 8, 8), 32 tokens of text.

    `size` pixels; the autoencoder halves its input `len(vae) - 1` times, to `latents` channels. `unet`: width at each scale.
    `text`, `image`: (width, layers) of the CLIP towers, heads of 32; `patch` pixels of an image token; `joint` width of the
    space both towers meet in. `dit`: (width, layers), heads of 32, patches of 2 x 2 latents.
    """

    size: int = 64
    latents: int = 8
    vae: tuple[int, ...] = (16, 32, 64, 96)
    unet: tuple[int, ...] = (128, 160)
    text: tuple[int, int] = (128, 4)
    image: tuple[int, int] = (128, 4)
    patch: int = 8
    joint: int = 128
    tokens: int = 32
    dit: tuple[int, int] = (192, 6)

    @property
    def side(self) -> int:
        """Height and width of a latent."""
        return self.size // 2 ** (len(self.vae) - 1)


def autoencoder(shape: Shape) -> AutoencoderKL:
    """Images (n, 3, size, size) in [-1, 1] to latents (n, latents, side, side)."""
    stages = len(shape.vae)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=shape.vae,
        layers_per_block=1,
        latent_channels=shape.latents,
        norm_num_groups=min(8, shape.vae[0]),
        sample_size=shape.size,
        mid_block_add_attention=False,
    )


def clip(shape: Shape, vocabulary: int) -> CLIPModel:
    """Both towers. The text tower alone conditions the UNet, as in Stable Diffusion."""
    text = {
        "vocab_size": vocabulary,
        "max_position_embeddings": shape.tokens,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
        "projection_dim": shape.joint,
        **_tower(*shape.text),
    }
    image = {"image_size": shape.size, "patch_size": shape.patch, "projection_dim": shape.joint, **_tower(*shape.image)}
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=shape.joint)
    return CLIPModel(config)


def text_unet(shape: Shape) -> UNet2DConditionModel:
    """Noise or velocity of latents, told a text of `tokens` vectors."""
    scales = len(shape.unet)
    return UNet2DConditionModel(
        sample_size=shape.side,
        in_channels=shape.latents,
        out_channels=shape.latents,
        block_out_channels=shape.unet,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * scales,
        up_block_types=("CrossAttnUpBlock2D",) * scales,
        cross_attention_dim=shape.text[0],
        # diffusers reads this as the number of heads (its issue 2011).
        attention_head_dim=tuple(max(1, width // 32) for width in shape.unet),
        norm_num_groups=min(16, shape.unet[0]),
    )


def class_dit(shape: Shape, classes: int) -> DiTTransformer2DModel:
    """Noise of latents, told a class; label `classes` is no class (Peebles & Xie, 2023)."""
    width, layers = shape.dit
    return DiTTransformer2DModel(
        sample_size=shape.side,
        in_channels=shape.latents,
        out_channels=shape.latents,
        patch_size=2,
        num_layers=layers,
        num_attention_heads=max(1, width // 32),
        attention_head_dim=min(width, 32),
        num_embeds_ada_norm=classes,
    )


def _tower(width: int, layers: int) -> dict[str, int | str]:
    heads = max(1, width // 32)
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
    }
