"""World-model quality: how right and how consistent imagination is. See docs/world_model_quality.md."""
