"""Training: section 6.2.2 of the note. MSE pretraining, then adversarial training, each two nested loops.

What the note writes inside its loops is in other modules: reading images and cutting patches in
training/dataset.py and patches.py (the note's helpers themselves are in utils.py), the range [-1, 1] in the
graph, the learning rate in training/schedule.py, samples and npz every N epochs in `end_epoch` of
training/run.py, the printed line in training/report.py, session and weights in training/preparation.py.
"""

from __future__ import annotations

from pathlib import Path

from training.preparation import prepared_run
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains by `config`; files in, files out. Continues what is in `checkpoint_dir` unless `restart`."""
    with prepared_run(config, checkpoint_dir, samples_dir, recipe, restart) as run:
        sess, g = run.session, run.graph
        feed = run.cluster.feed  # gives {t_image: b_imgs_96, t_target_image: b_imgs_384}

        # run.batches() also sets lr_v, and saves the state every TRAIN.save_minutes
        for epoch in run.epochs(PRETRAIN):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                losses, finite, _ = sess.run(
                    [g.g_init_losses, g.g_init_finite, g.g_optim_init], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        # end_epoch() has written g_srgan_init.npz; the session still holds these weights

        # D alone, so that G does not start against an untrained one; not in the note
        for epoch in run.epochs(DISCRIMINATOR):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                losses, finite, _ = sess.run(
                    [g.d_losses, g.d_finite, g.d_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        for epoch in run.epochs(ADVERSARIAL):
            for b_imgs_96, b_imgs_384 in run.batches(epoch):
                # the note's two runs in one: D's update, then G's against the updated D
                losses, finite, _ = sess.run(
                    [g.g_losses, g.finite, g.g_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.end_step(losses, finite)
            run.end_epoch(epoch)

        run.finish()
