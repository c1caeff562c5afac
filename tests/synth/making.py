"""Tiny generators of every family: real diffusers classes with random weights and a few thousand parameters, made from configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionGLIGENPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789,."
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_SCHEDULE = {**SD_BETAS, "steps_offset": 1, "set_alpha_to_one": False}


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer over single letters, 77 tokens long."""
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    """T5's tokenizer over single letters."""
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    return T5TokenizerFast(vocab=words, extra_ids=0, additional_special_tokens=[], model_max_length=16)


def text_encoder(width: int = 16, projection: int | None = None) -> Any:
    size = len(tokenizer())
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection or width,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config)


def t5_encoder(width: int = 16) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=64, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def vae(channels: int = 4, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=32,
        **more,
    )


def unet(width: int = 16, channels: int = 4, **more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=width,
        **more,
    )


def sd(prediction: str = "epsilon", scheduler: type = PNDMScheduler, channels: int = 4, **more: Any) -> Any:
    """SD 1.5 with epsilon; SD 2.1 with v_prediction, linear projections and a wider text tower."""
    torch.manual_seed(0)
    width = 24 if prediction == "v_prediction" else 16
    schedule: dict[str, Any] = {**SD_SCHEDULE, "prediction_type": prediction}
    if scheduler is PNDMScheduler:
        schedule["skip_prk_steps"] = True
    if scheduler is DDIMScheduler:
        schedule["clip_sample"] = False
    return StableDiffusionPipeline(
        vae=vae(scaling_factor=0.18215),
        text_encoder=text_encoder(width),
        tokenizer=tokenizer(),
        unet=unet(width, channels, use_linear_projection=prediction == "v_prediction", **more),
        scheduler=scheduler(**schedule),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(refiner: bool = False) -> Any:
    torch.manual_seed(1)
    size = 5 if refiner else 6
    context = 16 if refiner else 32
    added = unet(
        context,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16 + 4 * size,
        use_linear_projection=True,
    )
    parts = {
        "vae": vae(scaling_factor=0.13025),
        "text_encoder": None if refiner else text_encoder(16),
        "text_encoder_2": text_encoder(16, projection=16),
        "tokenizer": None if refiner else tokenizer(),
        "tokenizer_2": tokenizer(),
        "unet": added,
        "scheduler": EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="leading"),
    }
    if refiner:
        return StableDiffusionXLImg2ImgPipeline(
            **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False, add_watermarker=False
        )
    return StableDiffusionXLPipeline(**parts, add_watermarker=False)


def sd3(t5: bool = True) -> Any:
    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(16, projection=16),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(16, projection=16),
        tokenizer_2=tokenizer(),
        text_encoder_3=t5_encoder(32) if t5 else None,
        tokenizer_3=t5_tokenizer() if t5 else None,
    )


def flux(guidance: bool = True) -> Any:
    torch.manual_seed(3)
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance, shift=3.0 if guidance else 1.0),
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(16),
        tokenizer=tokenizer(),
        text_encoder_2=t5_encoder(32),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    )
    return pipeline


def dit(classes: int = 10) -> Any:
    torch.manual_seed(4)
    transformer = DiTTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=classes,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, steps_offset=0)
    return DiTPipeline(transformer=transformer, vae=vae(scaling_factor=0.18215), scheduler=scheduler)


def gligen() -> Any:
    torch.manual_seed(5)
    return StableDiffusionGLIGENPipeline(
        vae=vae(scaling_factor=0.18215),
        text_encoder=text_encoder(16),
        tokenizer=tokenizer(),
        unet=unet(16, attention_type="gated"),
        scheduler=PNDMScheduler(**SD_SCHEDULE, skip_prk_steps=True),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def pixart(sigma: bool = False, cells: int = 16) -> Any:
    """PixArt-alpha, told an image's size at 128 cells to a side as the published 1024 px one is, or PixArt-Sigma."""
    torch.manual_seed(6)
    transformer = PixArtTransformer2DModel(
        sample_size=cells,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        cross_attention_dim=24,
        caption_channels=16,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=cells == 128 and not sigma,
    )
    return (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(16),
        vae=vae(scaling_factor=0.18215),
        transformer=transformer,
        scheduler=DDIMScheduler(clip_sample=False),
    )


def sana() -> Any:
    torch.manual_seed(7)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    text = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    blocks = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    plain = {"encoder_block_types": ("ResBlock", "ResBlock"), "decoder_block_types": ("ResBlock", "ResBlock")}
    return SanaPipeline(
        tokenizer=GemmaTokenizerFast(vocab={word: i for i, word in enumerate(words)}, merges=[]),
        text_encoder=Gemma2Model(text),
        vae=AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            scaling_factor=0.41407,
            **blocks,
            **plain,
        ),
        transformer=SanaTransformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


MAKERS = {
    "sd15": sd,
    "sd21": lambda: sd("v_prediction", DDIMScheduler),
    "sdxl": sdxl,
    "sd3": sd3,
    "flux": flux,
    "schnell": lambda: flux(guidance=False),
    "dit": dit,
    "pixart": pixart,
    "gligen": gligen,
}


def saved(pipeline: Any, folder: Path) -> str:
    """The pipeline's folder, written."""
    pipeline.save_pretrained(folder, safe_serialization=True)
    return str(folder)
