"""How many tokens a prompt has, from the model's own vocabulary and template, or from what was learned. Pure."""
