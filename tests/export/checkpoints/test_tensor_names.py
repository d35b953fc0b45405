"""Names of older libraries lead to today's, and nothing else is renamed."""

from __future__ import annotations

import pytest

from kandinsky_export.checkpoints.tensor_names import current_names


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        # diffusers before 0.17
        ("encoder.mid_block.attentions.0.query.weight", "encoder.mid_block.attentions.0.to_q.weight"),
        ("encoder.mid_block.attentions.0.proj_attn.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
        # PaddleNLP's CLIP: the list in ppdiffusers' own `_deprecated_dict`
        ("text_model.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("text_model.positional_embedding.weight", "text_model.embeddings.position_embedding.weight"),
        ("text_model.ln_final.bias", "text_model.final_layer_norm.bias"),
        (
            "text_model.transformer.layers.11.self_attn.q_proj.weight",
            "text_model.encoder.layers.11.self_attn.q_proj.weight",
        ),
        ("text_model.transformer.layers.0.linear1.bias", "text_model.encoder.layers.0.mlp.fc1.bias"),
        ("text_model.transformer.layers.0.linear2.weight", "text_model.encoder.layers.0.mlp.fc2.weight"),
        ("vision_model.transformer.layers.3.norm1.weight", "vision_model.encoder.layers.3.layer_norm1.weight"),
        ("vision_model.transformer.layers.3.norm2.bias", "vision_model.encoder.layers.3.layer_norm2.bias"),
        ("vision_model.class_embedding", "vision_model.embeddings.class_embedding"),
        ("vision_model.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("vision_model.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
        ("vision_model.ln_post.weight", "vision_model.post_layernorm.weight"),
        ("text_projection", "text_projection.weight"),
        ("vision_projection", "visual_projection.weight"),
    ],
)
def test_old_names(stored: str, expected: str) -> None:
    assert current_names([stored], {expected}) == {stored: expected}
    assert current_names([stored], {"other"}) == {stored: stored}
    assert current_names([stored, expected], {expected}) == {stored: stored, expected: expected}


def test_counted_positions_mean_nothing() -> None:
    names = ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "position_ids"]
    assert current_names(names, set()) == {"position_ids": "position_ids"}
