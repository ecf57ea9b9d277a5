"""The models: one row each, tiny, of random weights, in the words of its own configuration.

Every row names a configuration, a model with a loss, and the inputs that such a model is trained on. What drops out
is set to zero, so that the full batch in eager is the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import widened

transformers = widened.transformers

Batch = dict[str, torch.Tensor]
VOCABULARY, TOKENS, IMAGE, CLASSES = 96, 12, 32, 5


@dataclass(frozen=True)
class Model:
    """A row of the zoo: ``build()`` makes the model, ``batch(n)`` the keyword arguments of its forward."""

    config: str
    head: str
    batch: Callable[[int], Batch]
    settings: dict

    def build(self) -> torch.nn.Module:
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.settings)
        for part in (config, *vars(config).values()):
            without_dropout(part)
        config._experts_implementation = "eager"  # the default, grouped_mm, has no kernel for float64
        return getattr(transformers, self.head)(config).double().train()


def without_dropout(config: object) -> None:
    """Set every rate of dropping something out to zero."""
    for name, value in list(getattr(config, "__dict__", {}).items()):
        if isinstance(value, float) and any(word in name for word in ("drop", "mask_time_prob", "mask_feature_prob")):
            setattr(config, name, 0.0)


# --- inputs


def tokens(n: int) -> Batch:
    """Sequences of 2 to TOKENS real tokens, padded on the right."""
    ids = torch.randint(3, VOCABULARY, (n, TOKENS))
    real = torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (n, 1))
    return {"input_ids": ids.masked_fill(~real, 1), "attention_mask": real.long()}


def causal(n: int) -> Batch:
    """Every real token but some of the prompt's is a label."""
    batch = tokens(n)
    hidden = (batch["attention_mask"] == 0) | (torch.arange(TOKENS) < torch.randint(0, 3, (n, 1)))
    return batch | {"labels": batch["input_ids"].masked_fill(hidden, -100)}


def recurrent(n: int) -> Batch:
    """Without a mask: the model has none."""
    batch = causal(n)
    return {"input_ids": batch["input_ids"], "labels": batch["labels"]}


def masked(n: int) -> Batch:
    """A third of the real tokens is to be guessed."""
    batch = tokens(n)
    guessed = (torch.rand(n, TOKENS) < 0.3) & (batch["attention_mask"] == 1)
    return batch | {"labels": batch["input_ids"].masked_fill(~guessed, -100)}


def to_text(n: int) -> Batch:
    """A source and a target, both padded."""
    return tokens(n) | {"labels": causal(n)["labels"]}


def speech_to_text(n: int) -> Batch:
    return {"input_features": torch.randn(n, 8, 2 * TOKENS).double(), "labels": causal(n)["labels"]}


def speech(n: int) -> Batch:
    """Waveforms of several lengths, and as many letters as fit."""
    samples = 400
    real = torch.arange(samples) < torch.randint(200, samples + 1, (n, 1))
    letters = torch.randint(1, 12, (n, 3)).masked_fill(torch.arange(3) >= torch.randint(1, 4, (n, 1)), -100)
    return {"input_values": torch.randn(n, samples).double() * real, "attention_mask": real.long(), "labels": letters}


def images(n: int) -> Batch:
    return {"pixel_values": torch.randn(n, 3, IMAGE, IMAGE).double(), "labels": torch.randint(CLASSES, (n,))}


def segmented(n: int) -> Batch:
    """Pixel labels, some of them unknown."""
    labels = torch.randint(CLASSES, (n, IMAGE, IMAGE))
    return images(n) | {"labels": labels.masked_fill(torch.rand(labels.shape) < 0.2, 255)}


def pairs(n: int) -> Batch:
    """An image and its text, and the loss between all of them."""
    return tokens(n) | {"pixel_values": images(n)["pixel_values"], "return_loss": True}


def unmasked_pairs(n: int) -> Batch:
    batch = pairs(n)
    del batch["attention_mask"]
    return batch


def captions(n: int) -> Batch:
    return causal(n) | {"pixel_values": images(n)["pixel_values"]}


def questions(n: int) -> Batch:
    """An image, a question, and the weights of the answers."""
    return tokens(n) | {"pixel_values": images(n)["pixel_values"], "labels": torch.rand(n, CLASSES).double()}


def boxes(n: int) -> Batch:
    """Objects to be found: a list of one to three for each image."""
    found = torch.randint(1, 4, (n,)).tolist()
    labels = [
        {"class_labels": torch.randint(CLASSES, (k,)), "boxes": torch.rand(k, 4).double() * 0.4 + 0.3} for k in found
    ]
    return {"pixel_values": images(n)["pixel_values"], "labels": labels}


# --- the rows

TEXT = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0}
TEXT |= {"eos_token_id": 2, "use_cache": False}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXPERTS |= {"output_router_logits": True}
SEQ2SEQ = {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "pad_token_id": 1}
SEQ2SEQ |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
SEQ2SEQ |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
SEQ2SEQ |= {"use_cache": False}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION |= {"image_size": IMAGE, "patch_size": 8, "num_labels": CLASSES}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": CLASSES}
TOWERS = {
    "text_config": TEXT | {"projection_dim": 16, "eos_token_id": 2},
    "vision_config": VISION | {"projection_dim": 16},
    "projection_dim": 16,
}

ZOO: dict[str, Model] = {
    # decoders
    "llama": Model("LlamaConfig", "LlamaForCausalLM", causal, GROUPED),
    "mistral": Model("MistralConfig", "MistralForCausalLM", causal, GROUPED | {"sliding_window": 8}),
    "mixtral": Model("MixtralConfig", "MixtralForCausalLM", causal, EXPERTS),
    "qwen2": Model("Qwen2Config", "Qwen2ForCausalLM", causal, GROUPED),
    "qwen3": Model("Qwen3Config", "Qwen3ForCausalLM", causal, GROUPED),
    "qwen3_moe": Model("Qwen3MoeConfig", "Qwen3MoeForCausalLM", causal, EXPERTS),
    "gemma2": Model("Gemma2Config", "Gemma2ForCausalLM", causal, GROUPED | {"sliding_window": 8}),
    "gemma3": Model("Gemma3TextConfig", "Gemma3ForCausalLM", causal, GROUPED | {"sliding_window": 8}),
    "phi3": Model("Phi3Config", "Phi3ForCausalLM", causal, GROUPED),
    "gpt2": Model(
        "GPT2Config",
        "GPT2LMHeadModel",
        causal,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "use_cache": False,
            "n_positions": 64,
            "bos_token_id": 0,
        }
        | {"eos_token_id": 2},
    ),
    "gpt_neox": Model("GPTNeoXConfig", "GPTNeoXForCausalLM", causal, TEXT),
    "opt": Model("OPTConfig", "OPTForCausalLM", causal, TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "bloom": Model(
        "BloomConfig",
        "BloomForCausalLM",
        causal,
        {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, "use_cache": False},
    ),
    "falcon": Model("FalconConfig", "FalconForCausalLM", causal, TEXT | {"ffn_hidden_size": 64}),
    "olmo2": Model("Olmo2Config", "Olmo2ForCausalLM", causal, GROUPED),
    "granite": Model("GraniteConfig", "GraniteForCausalLM", causal, GROUPED),
    "starcoder2": Model("Starcoder2Config", "Starcoder2ForCausalLM", causal, GROUPED | {"sliding_window": 8}),
    "deepseek_v3": Model(
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        causal,
        TEXT
        | {"num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 2}
        | {"n_group": 2, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
        | {"qk_nope_head_dim": 8, "first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
    "mamba": Model(
        "MambaConfig",
        "MambaForCausalLM",
        recurrent,
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "use_cache": False},
    ),
    "rwkv": Model(
        "RwkvConfig",
        "RwkvForCausalLM",
        recurrent,
        {"vocab_size": VOCABULARY, "hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2}
        | {"intermediate_size": 64, "context_length": 64, "use_cache": False},
    ),
    # encoders, and encoders with decoders
    "bert": Model("BertConfig", "BertForMaskedLM", masked, TEXT),
    "roberta": Model("RobertaConfig", "RobertaForMaskedLM", masked, TEXT),
    "deberta_v2": Model(
        "DebertaV2Config",
        "DebertaV2ForMaskedLM",
        masked,
        TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    ),
    "electra": Model("ElectraConfig", "ElectraForMaskedLM", masked, TEXT | {"embedding_size": 16}),
    "albert": Model("AlbertConfig", "AlbertForMaskedLM", masked, TEXT | {"embedding_size": 16}),
    "distilbert": Model(
        "DistilBertConfig",
        "DistilBertForMaskedLM",
        masked,
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "hidden_dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "modernbert": Model(
        "ModernBertConfig",
        "ModernBertForMaskedLM",
        masked,
        TEXT
        | {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 0, "sep_token_id": 2}
        | {"attn_implementation": "sdpa", "reference_compile": False},
    ),
    "t5": Model(
        "T5Config",
        "T5ForConditionalGeneration",
        to_text,
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_layers": 2,
            "num_heads": 4,
            "pad_token_id": 1,
        }
        | {"decoder_start_token_id": 1, "use_cache": False},
    ),
    "bart": Model("BartConfig", "BartForConditionalGeneration", to_text, SEQ2SEQ),
    "pegasus": Model("PegasusConfig", "PegasusForConditionalGeneration", to_text, SEQ2SEQ),
    "m2m_100": Model("M2M100Config", "M2M100ForConditionalGeneration", to_text, SEQ2SEQ),
    "whisper": Model(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        speech_to_text,
        SEQ2SEQ
        | {"num_mel_bins": 8, "max_source_positions": TOKENS, "max_target_positions": 64}
        | {"suppress_tokens": None, "begin_suppress_tokens": None},
    ),
    "wav2vec2": Model(
        "Wav2Vec2Config",
        "Wav2Vec2ForCTC",
        speech,
        TEXT
        | {"vocab_size": 12, "conv_dim": [16, 16], "conv_kernel": [10, 3], "conv_stride": [5, 2], "pad_token_id": 0}
        | {"num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
    ),
    # vision, and vision with text
    "vit": Model("ViTConfig", "ViTForImageClassification", images, VISION),
    "deit": Model("DeiTConfig", "DeiTForImageClassification", images, VISION),
    "swin": Model(
        "SwinConfig",
        "SwinForImageClassification",
        images,
        {"image_size": IMAGE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
        | {"num_labels": CLASSES},
    ),
    "convnext": Model("ConvNextConfig", "ConvNextForImageClassification", images, STAGES | {"patch_size": 2}),
    "resnet": Model("ResNetConfig", "ResNetForImageClassification", images, STAGES | {"embedding_size": 8}),
    "regnet": Model(
        "RegNetConfig", "RegNetForImageClassification", images, STAGES | {"embedding_size": 8, "groups_width": 8}
    ),
    "mobilenet_v2": Model(
        "MobileNetV2Config",
        "MobileNetV2ForImageClassification",
        images,
        {"image_size": IMAGE, "depth_multiplier": 0.25, "min_depth": 4, "num_labels": CLASSES},
    ),
    "efficientnet": Model(
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        images,
        {
            "image_size": IMAGE,
            "width_coefficient": 0.25,
            "depth_coefficient": 0.25,
            "hidden_dim": 320,
            "num_labels": CLASSES,
        }
        | {"in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "kernel_sizes": [3, 3, 5], "strides": [1, 2, 2]}
        | {"num_block_repeats": [1, 1, 1], "expand_ratios": [1, 6, 6], "depthwise_padding": []},
    ),
    "segformer": Model(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        segmented,
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 4]}
        | {"sr_ratios": [4, 2, 1, 1], "decoder_hidden_size": 16, "num_labels": CLASSES},
    ),
    "dinov2": Model("Dinov2Config", "Dinov2ForImageClassification", images, VISION | {"mlp_ratio": 2}),
    "clip": Model("CLIPConfig", "CLIPModel", pairs, TOWERS),
    "siglip": Model("SiglipConfig", "SiglipModel", pairs, TOWERS),
    "blip": Model("BlipConfig", "BlipForConditionalGeneration", captions, TOWERS),
    "detr": Model(
        "DetrConfig",
        "DetrForObjectDetection",
        boxes,
        SEQ2SEQ
        | {"num_queries": 6, "num_labels": CLASSES, "use_timm_backbone": False, "use_pretrained_backbone": False}
        | {"backbone": None},
    ),
    "vilt": Model("ViltConfig", "ViltForQuestionAnswering", questions, TEXT | VISION | {"num_labels": CLASSES}),
}
