"""What a plan says, as text: a rank's memory, a step's time, what fits, scaling; and the paper's configurations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from partial_fc import paper
from partial_fc.cost_model import (
    GPU_PROCESS_BYTES,
    LARGEST_IDENTITIES,
    MIB,
    Setting,
    Speeds,
    fits,
    head_memory,
    images_per_second,
    largest_identities,
    memory,
    step_seconds,
    total,
    with_fitting_logits,
)
from partial_fc.network_cost import NetworkCost, network_cost

GIB = 2**30
SCALING_RANKS = tuple(2**power for power in range(11))
SCALING_IDENTITIES = (100_000_000, 1_000_000_000)

# The paper's layer holds about so many N×S matrices at once, this project's one.
PAPER_LOGIT_MATRICES = 5


@dataclass(frozen=True)
class Plan:
    """A run beside what a rank may take.

    Attributes:
        setting: the run.
        network: what to call its backbone.
        speeds: of its machines.
        limits: bytes by place, as of :func:`partial_fc.cost_model.fits`.
        chooses_chunk: whether the logits' chunk follows from the limits.
    """

    setting: Setting
    network: str
    speeds: Speeds
    limits: dict[str, int]
    chooses_chunk: bool

    def adapt(self, setting: Setting) -> Setting:
        """The setting with the chunk that fits, where the options leave it open."""
        return with_fitting_logits(setting, self.limits) if self.chooses_chunk else setting

    def at(self, identities: int, ranks: int) -> Setting:
        """The plan's setting at another size."""
        return self.adapt(dataclasses.replace(self.setting, identities=identities, ranks=ranks))

    def most(self, ranks: int) -> str:
        """The most identities that fit on so many ranks."""
        like = dataclasses.replace(self.setting, identities=ranks, ranks=ranks)
        most = largest_identities(like, self.limits, self.adapt)
        return f"{most:,}" if most < LARGEST_IDENTITIES else "more than 10^12"


def report(plan: Plan) -> str:
    """The plan, to print."""
    setting = plan.adapt(plan.setting)
    sections = {
        "memory of a rank": _memory(setting, plan),
        "a step": _step(setting, plan.speeds),
        "scaling": _scaling(plan),
    }
    return "\n\n".join([_headline(setting, plan), *(f"{title}\n{text}" for title, text in sections.items())])


def _headline(setting: Setting, plan: Plan) -> str:
    chunk = setting.logits_chunk
    logits = "all kept" if chunk is None else f"of {chunk} classes at once (--logits-chunk {chunk})"
    return (
        f"{setting.identities:,} identities on {setting.ranks} ranks ({setting.device}), "
        f"{setting.batch_size} images a rank, {plan.network}, D = {setting.embedding_size}\n"
        f"a rank owns {setting.classes:,} class centers ({setting.storage}) and samples {setting.sampled:,} of them; "
        f"logits {logits}"
    )


def _memory(setting: Setting, plan: Plan) -> str:
    parts = memory(setting)
    lines = [f"  {part.name:<42} {part.bytes / MIB:>11,.0f} MiB  {part.place}" for part in parts]
    for place in dict.fromkeys(part.place for part in parts):
        lines.append(f"  {'all of ' + place:<42} {total(parts, place) / MIB:>11,.0f} MiB")
    room = " and ".join(f"{limit / GIB:g} GiB of {place}" for place, limit in plan.limits.items())
    verdict = "it fits" if fits(setting, plan.limits) else "it does NOT fit"
    lines.append(f"  {verdict} in {room}; identities at most on {setting.ranks} ranks: {plan.most(setting.ranks)}")
    return "\n".join(lines)


def _step(setting: Setting, speeds: Speeds) -> str:
    seconds = step_seconds(setting, speeds)
    lines = [f"  {name:<46} {1e3 * value:>10,.1f} ms" for name, value in seconds.items()]
    lines.append(f"  {'in all':<46} {1e3 * sum(seconds.values()):>10,.1f} ms, "
                 f"{images_per_second(setting, speeds):,.0f} images/s")  # fmt: skip
    lines.append(
        f"  at {speeds.gemm_flops / 1e12:.3g} TFLOP/s in products, {speeds.backbone_flops / 1e12:.3g} in the "
        f"backbone, {speeds.memory_bytes / 1e9:.3g} GB/s of memory,\n  {speeds.inside_bytes / 1e9:.3g} GB/s within a "
        f"machine of {speeds.ranks_per_machine} ranks, {speeds.network_bytes / 1e9:.3g} between machines, "
        f"{1e6 * speeds.latency_seconds:.3g} µs a message"
    )
    return "\n".join(lines)


def _scaling(plan: Plan) -> str:
    columns = sorted({plan.setting.identities, *SCALING_IDENTITIES})
    titles = "".join(f"{f'{identities:,}':>22}" for identities in columns)
    units = "".join(f"{'GiB':>11}{'img/s':>11}" for _ in columns)
    lines = [f"  {'ranks':>5}{'identities at most':>20}{titles}", f"  {'':>25}{units}"]
    for ranks in SCALING_RANKS:
        cells = [_cell(plan, identities, ranks) for identities in columns]
        lines.append(f"  {ranks:>5}{plan.most(ranks):>20}{''.join(cells)}")
    return "\n".join([*lines, "  a memory in brackets does not fit; the global batch grows with the ranks"])


def _cell(plan: Plan, identities: int, ranks: int) -> str:
    if ranks > identities:
        return f"{'-':>11}{'-':>11}"
    setting = plan.at(identities, ranks)
    size = f"{total(memory(setting)) / GIB:,.1f}"
    if not fits(setting, plan.limits):
        return f"{f'({size})':>11}{'-':>11}"
    return f"{size:>11}{images_per_second(setting, plan.speeds):>11,.0f}"


def paper_report(speeds: Speeds) -> str:
    """What the model says of the paper's four configurations, beside the paper's numbers."""
    network = network_cost(paper.NETWORK, embedding_size=paper.EMBEDDING_SIZE, fp16=True)
    lines = [
        f"the paper ({paper.CONDITIONS}) and this model",
        f"  {'':>37}{'Memory/M':>32}{'Throughput img/sec':>26}",
        f"  {'Method':<15}{'Identities':>12}{'GPUs':>5}{'Batch':>6}{'paper':>9}{'here':>9}"
        f"{f'{PAPER_LOGIT_MATRICES} N×S':>9}{'/paper':>8}{'paper':>9}{'here':>9}{'/paper':>8}",
    ]
    for row in paper.ROWS:
        setting = _paper_setting(row, network)
        here, speed = total(memory(setting)) / MIB, images_per_second(setting, speeds)
        as_paper = here + (PAPER_LOGIT_MATRICES - 1) * _logits_mib(setting)
        lines.append(
            f"  {row.method:<15}{row.identities:>12,}{row.gpus:>5}{row.batch_size:>6}{row.memory_mb:>9}{here:>9.0f}"
            f"{as_paper:>9.0f}{as_paper / row.memory_mb:>8.2f}{row.images_per_second:>9}{speed:>9.0f}"
            f"{speed / row.images_per_second:>8.2f}"
        )
    return "\n".join([*lines, _PAPER_NOTES])


_PAPER_NOTES = f"""\
Memory: the paper's rows are higher where N·S is large. Its layer holds about {PAPER_LOGIT_MATRICES} matrices of N×S at
once (logits, exponentials, one-hot labels, gradients), this one a single one: the column "{PAPER_LOGIT_MATRICES} N×S"
is the model with theirs. What CUDA, cuDNN and NCCL take themselves is an assumption: {GPU_PROCESS_BYTES // MIB} MiB.
Throughput: the backbone's rate is what the paper's Partial FC row of 1 M gives; the other rows are predictions. Model
Parallel is slower in the paper, for its layer passes over those matrices many times. At 10 M the two batches differ
({paper.ROWS[2].batch_size}, {paper.ROWS[3].batch_size}), and the network between the 8 machines decides, of which the
paper says nothing: 10 Gbit/s is assumed (--network-gb)."""


def _paper_setting(row: paper.PaperRow, network: NetworkCost) -> Setting:
    """A row's configuration, as this project would train it with all logits kept."""
    return Setting(
        row.identities, row.gpus, row.images_per_gpu, paper.EMBEDDING_SIZE, row.sample_ratio, network=network
    )


def _logits_mib(setting: Setting) -> float:
    """MiB of the logits that are kept."""
    return next(part.bytes for part in head_memory(setting) if part.name == "logits") / MIB
