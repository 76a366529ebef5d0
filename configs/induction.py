"""Which tokens carry labels in the network of token_copying, and do interventions see copying before derivatives do?

    python -m experiments.run --config=configs/induction.py

The networks are those of token_copying (von Oswald et al. 2212.07677, separate tokens of x and y): a layer of softmax
attention, then a layer of linear attention, five seeds, 10,000 steps. The paper concludes from the norms of derivatives
that the first layer copies each label to its input. Here the same is shown by interventions, every 50 steps: by
patching (one label is corrupted; which token of the first layer's output restores the prediction?) and by ablation (the
attention of the first layer becomes uniform, or the attention of inputs to their labels is cut). A run takes half an
hour on two CPU cores.

Except for one claim, whose note says so, all targets were set before the run. Known by then were the results of
token_copying, for which the same networks were trained, and the values of untrained networks.

Found: before the loss falls, cutting the attention of inputs to their labels shows that labels are used. Then patching
and uniform attention clearly show that attention is selective, and then derivatives do, 50 to 100 steps after patching.
After training, the token of an input carries 94 % or more of the effect of its label.

Variants: `smoke`.
"""

from icl_gd.lab import Eval, Experiment, GradientDescent, Network, Regression, Train, claim, smoke

VARIANTS = ("smoke",)

PAPER = "VO, separate tokens"
BUILT = "constructions/copying.py"


def get_config(variant: str = "") -> Experiment:
    experiment = Experiment(
        task=Regression(),
        model=Network(layout="interleaved", n_layers=2, attention=("softmax", "linear"), init_scale=0.02),
        train=Train(steps=10_000, clip=10.0, share_batches=True, log_every=50, checkpoint_every=500),
        eval=Eval(prompts=2**17),
        reference=GradientDescent(steps=1),
        seeds=5,
        analyses=("alignment", "copying", "induction"),
        claims=(
            # After training.
            claim(
                "IND.input",
                "the token of an input carries the effect of its label: patching it after the first layer restores "
                "most of the prediction (smallest share)",
                metric="patch_share_input",
                source=PAPER,  # the construction has 1
                at_least=0.8,
                reduce="min",
            ),
            claim(
                "IND.label",
                "the token of a label no longer carries its effect after the first layer (largest share restored)",
                metric="patch_share_label",
                source=PAPER,  # the construction has 0: label tokens have no keys
                at_most=0.2,
                reduce="max",
            ),
            claim(
                "IND.value",
                "the effect of a label passes the first layer through the value of its token (smallest share)",
                metric="patch_share_value",
                source=BUILT,
                at_least=0.8,
                reduce="min",
            ),
            claim(
                "IND.contrast",
                "patching the input of a corrupted label has a larger effect than patching another input (smallest "
                "ratio)",
                metric="patch_contrast",
                source=PAPER,
                at_least=5.0,
                reduce="min",
            ),
            claim(
                "IND.uniform",
                "with uniform attention in the first layer, nearly the whole reduction of the loss is lost (smallest "
                "share)",
                metric="share_lost_uniform",
                source=PAPER,  # then no input is merged with its own label
                at_least=0.9,
                reduce="min",
            ),
            claim(
                "IND.mean",
                "with the heads of the first layer at their means over prompts, nearly the whole reduction of the loss "
                "is lost (smallest share)",
                metric="share_lost_mean",
                source=PAPER,
                at_least=0.9,
                reduce="min",
            ),
            claim(
                "IND.edges",
                "without the attention of inputs to their labels, nearly the whole reduction of the loss is lost "
                "(smallest share)",
                metric="share_lost_edges",
                source=BUILT,  # the construction loses all of it
                at_least=0.9,
                reduce="min",
            ),
            claim(
                "IND.other_edges",
                "without the attention of inputs to the labels of the next inputs, little of the reduction of the loss "
                "is lost (largest share)",
                metric="share_lost_other_edges",
                source="control",
                at_most=0.1,
                reduce="max",
            ),
            # During training.
            claim(
                "IND.first",
                "patching clearly shows copying no later than the norms of derivatives do (smallest lead in steps)",
                # The norms average over labels that attend to the next input, which no gradient step needs.
                metric="patching_clear_leads_derivatives_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "IND.carries",
                "half of the effect of a label passes through its input before the loss is halfway down (smallest lead "
                "in steps)",
                metric="patching_carries_leads_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "IND.seen",
                "uniform attention raises the loss significantly before the norms of derivatives clearly show copying "
                "(smallest lead in steps)",
                # The increase of the loss is of first order in what attention adds to the mean; its sign is known.
                metric="ablation_seen_leads_derivatives_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "IND.late",
                "uniform attention loses half of the reduction of the loss only after the norms of derivatives begin "
                "to show copying (smallest lag in steps)",
                # On the plateau there is no reduction of the loss that could be lost.
                metric="ablation_clear_lags_derivatives_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "IND.before",
                "uniform attention loses half of the reduction of the loss before the loss is halfway down (smallest "
                "lead in steps)",
                metric="ablation_clear_leads_by",
                source="this project",
                at_least=0,
                reduce="min",
            ),
            claim(
                "IND.used",
                "cutting the attention of inputs to their labels raises the loss significantly before the norms of "
                "derivatives begin to show copying (smallest lead in steps)",
                # Attention to the label grows only if the second layer already uses what uniform attention copies.
                metric="edges_seen_leads_derivatives_by",
                source="this project",
                at_least=0,
                reduce="min",
                note="In two of five seeds it does, by 50 and 150 steps. In the others the ratio of the norms stays "
                "less than one percent above one for up to hundreds of steps. It hardly depends on prompts, so it has "
                "no noise; an increase of the loss has some. When the cut is significant, derivatives do not yet show "
                "copying clearly (IND.used_early).",
            ),
            claim(
                "IND.used_early",
                "when cutting the attention of inputs to their labels raises the loss significantly, the derivative to "
                "the next token is still nearly equal to that to other tokens (largest ratio)",
                metric="edges_seen_at_derivative_contrast",
                source="this project",
                at_most=1.1,
                reduce="max",
                note="Added after the first run, as the reason why IND.used fails.",
            ),
            # Controls.
            claim(
                "IND.untrained",
                "in untrained networks, patching the input of a corrupted label has no larger effect than patching "
                "another input (largest ratio)",
                metric="patch_contrast_untrained",
                source="control",
                at_most=1.2,
                reduce="max",
            ),
            claim(
                "IND.untrained_share",
                "in untrained networks, the token of an input does not carry the effect of its label (largest share)",
                metric="patch_share_input_untrained",
                source="control",
                at_most=0.1,
                reduce="max",
            ),
            claim(
                "IND.built",
                "in the constructed network, the token of an input carries the whole effect of its label (share)",
                metric="patch_share_input_construction",
                source=BUILT,
                within=(1.0, 1e-3),
            ),
            claim(
                "IND.built_edges",
                "without the attention of inputs to their labels, the constructed network is as good as predicting "
                "zero (share lost of the reduction of the loss)",
                metric="share_lost_edges_construction",
                source=BUILT,
                within=(1.0, 1e-3),
            ),
            claim(
                "IND.additive",
                "the effects of patching one token at a time add up to that of patching all tokens but the query "
                "(largest difference, relative to the largest label)",
                metric="patch_additivity_error",
                source="the last layer is linear in the tokens other than the query",
                at_most=1e-4,
                reduce="max",
            ),
        ),
    )
    if variant == "smoke":
        return smoke(experiment)
    if variant:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(VARIANTS)}")
    return experiment
