"""The training loops: section 6.2.2 of the note. Each phase is two nested loops, over epochs and batches.

Other modules do what the note does inside its loops: training/dataset.py and patches.py read images and cut
patches (the note's own helpers are in utils.py), the graph converts to [-1, 1], training/schedule.py sets the
learning rate, `end_epoch` in training/run.py writes samples and weights every N epochs, training/report.py
prints the log line, and training/preparation.py creates the session and loads weights.
"""

from __future__ import annotations

from pathlib import Path

from training.preparation import prepared_run
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains with `config` and writes the outputs; continues the run in `checkpoint_dir` unless `restart`."""
    with prepared_run(config, checkpoint_dir, samples_dir, recipe, restart) as run:
        sess, g = run.session, run.graph
        feed = run.cluster.feed  # returns {t_image: b_imgs_96, t_target_image: b_imgs_384}

        # run.batches() also sets lr_v, and saves the state every TRAIN.save_minutes
        for epoch in run.epochs(PRETRAIN):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                losses, finite, _ = sess.run(
                    [g.g_init_losses, g.g_init_finite, g.g_optim_init], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        # end_epoch() has written g_srgan_init.npz; the session still holds these weights

        # D alone, so that G does not start against an untrained D; not in the note
        for epoch in run.epochs(DISCRIMINATOR):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                losses, finite, _ = sess.run(
                    [g.d_losses, g.d_finite, g.d_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        for epoch in run.epochs(ADVERSARIAL):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                # one run instead of the note's two: updates D, then G against the updated D
                losses, finite, _ = sess.run(
                    [g.g_losses, g.finite, g.g_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        run.finish()
