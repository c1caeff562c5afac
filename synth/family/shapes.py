"""How each model of the reference family is built from its shape."""

from __future__ import annotations

from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel

from synth.family.config import Shape

#: BOS and EOS (which also pads) of the family's tokenizer.
BOS, EOS = 0, 1


def autoencoder(shape: Shape) -> AutoencoderKL:
    """Build the autoencoder of images (n, 3, size, size) in [-1, 1] to latents (n, latents, side, side), with random weights."""
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
    """Build CLIP with both towers and random weights. The text tower alone conditions the UNet, as in Stable Diffusion."""
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
    """Build the UNet that predicts noise or velocity of latents from a text of `tokens` vectors, with random weights."""
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
    """Build the DiT (Peebles and Xie 2023) that predicts noise of latents from a label; label `classes` stands for no class."""
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
