"""What ``docs/claims.md`` says whatever the figures are."""

from __future__ import annotations

INTRODUCTION = """\
*Partial FC* ([arXiv 2010.05222](https://arxiv.org/abs/2010.05222)) trains a face recognition network by classification
over all its identities, and lets only a part of the class centers take part in each step: those of the batch's own
identities, and randomly drawn others up to a share `r` of all (*positive plus randomly negative*, PPRN). It claims that

1. a tenth of the centers is enough: the network is as good as with all of them;
2. what matters is that the positive centers are always among them: purely random sampling is worse;
3. the reason shows in two cosines. Embeddings come as close to the centers of their own identities as with all
   centers, and the centers are as far from each other;
4. this does not hang on one margin: it holds for CosFace and for ArcFace.

Its second paper (*Killing Two Birds with One Stone*, CVPR 2022,
[arXiv 2203.15565](https://arxiv.org/abs/2203.15565)) adds that sampling helps with noisy labels: a negative center
that is in truth of the same person pushes embeddings the wrong way, and fewer negatives hold fewer of those. Negatives
with a cosine above 0.4 can be left out of the softmax altogether.

This page tries these claims with this project's own parts, on networks and data that two CPU cores train in about an
hour, and says what came out."""

NOTE_ON_DIFFERENCES = """\
*mean ± deviation* is over seeds (the sample's, divisor n − 1). The interval behind a difference of means is its 95 %
interval by Welch's t. Where it holds 0, the seeds do not tell the two apart: *no difference* is seen, which is not the
same as their being equal. With so many intervals on one page, one or two may miss by chance. The accuracies of
different rows are to be compared only where data and length of training are the same. What the cosines say is under
each heading."""

LIMITS = """\
Small networks, small images, some eight images of an identity (*longer*: 23), and some 10,000 identities: the
embeddings are far from what longer training would give, as their cosines to their own centers say, and a difference
that grows or vanishes later is not seen here. The paper trains on 360,232 identities and more, where a tenth of the
centers still is 36,000 negatives a step; a tenth of 10,000 is 1,000. What a given *number* of negatives does is closer
to what is measured here than what a given *share* does. One rank holds all centers: with several ranks each samples
from its own part, as the paper does, which changes which negatives are drawn and not how many."""

AGAIN = """\
```bash
python benchmarks/claims.py                     # all runs that are missing, then this page
python benchmarks/claims.py --only noisy        # a part of them
python benchmarks/claims.py --seeds 5           # more seeds, for narrower intervals
python benchmarks/claims.py --report-only       # this page from the finished runs
python benchmarks/claims.py --quick             # all of it in miniature, elsewhere: that it works
```

The figures of every run are in `benchmarks/results/claims/`, a JSON file each, with what it was made from; a run that
is there is not run again, so that the command goes on where it was killed."""


DATA = {
    "synthetic": "faces that the project draws itself (`partial_fc.data.synthetic_faces`);",
    "noisy": "the same images with noisy labels: {wrong_labels:.0%} of the images carry the label of another identity, "
    "drawn at random, and {split_identities:.0%} of the identities are split, every second image of them under a "
    "second label, as when two collections with the same people are joined;",
    "longer": "the images of synthetic, trained longer;",
    "noisy-longer": "the images and labels of noisy, trained longer;",
    "usual": "as synthetic, with s = {recipe[scale]:g} and m = {recipe[cosface][2]:g};",
    "usual-longer": "as longer, with s = {recipe[scale]:g} and m = {recipe[cosface][2]:g};",
    "lfw": "Labeled Faces in the Wild, `peopleDevTrain`, verified on 1,200 pairs of `peopleDevTest`; most of its "
    "people have one image;",
}
RECIPE = """\
Every arm on a data set is trained by one recipe: an IResNet with {units} units of {channels} channels on
{image_size}×{image_size} pixels, embeddings of {embedding_size} numbers, batches of {batch_size}, SGD with momentum
{momentum:g} and weight decay {weight_decay:g}, a learning rate that falls from {learning_rate:g} to 0 {falls}, and
s = {scale:g}; the margin is m = {m_cosface:g} for CosFace and m = {m_arcface:g} for ArcFace, smaller than in long
training, and alike for all arms. (*usual* alone has others. The small ones were chosen before the runs of this page, in
trial runs of the short length with seed 0, for the accuracies that r = 1 and r = 0.1 reached with them: s of 16, 32 and
64 and learning rates of 0.1 and 0.3 were tried.) The seeds are {seeds}: a seed decides the first weights, the order of
the images, their mirroring and the sampled negatives; arms of one seed see the same images in the same order.
`PartialFC`, `Backbone`, `SGD`, `TrainingLoader` and `Trainer` are those that `partial_fc.train` is made of; a run is
one process, one rank, one thread.

Measured at the end, and on the way for the curves:

- *accuracy* on held-out pairs of people that training does not see: ten folds, each judged by the threshold that is
best on the other nine;
- *cos to own center*: mean over {own_images:,} fixed training images (of those whose label is right) of the cosine
between the image's embedding and the center of its label, whether the image has had its turn in training or not;
- *largest cos between centers*: mean over {nearest_centers:,} fixed centers of the largest cosine with any other of all
centers. Lower is further apart.

{runs} runs took {minutes} minutes of a processor ({cpu}, {cores} cores, MXNet {mxnet}), {least} to {most} seconds each.
"""
