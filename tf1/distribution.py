"""Training of one model on several devices and hosts with tf.distribute; the default is one device.

Each replica processes its part of the global batch; tf1/replicas.py sums and averages over replicas.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from common.errors import UserError
from tf1.replicas import sum_of_replicas
from tf1.runtime import configure, session_config


@dataclass
class Cluster:
    """The replicas that train a model, the same number on every host."""

    strategy: tf.distribute.Strategy = field(default_factory=tf.distribute.get_strategy)
    session_config: tf.compat.v1.ConfigProto | None = None
    host: int = 0
    hosts: int = 1
    target: str = ""  # session target: this host's server if there are several hosts

    @property
    def is_chief(self) -> bool:
        """Whether this host is the one that writes files."""
        return self.host == 0

    @property
    def replicas(self) -> int:
        """Number of replicas on all hosts."""
        return self.strategy.num_replicas_in_sync

    def require_divisible(self, batch_size: int) -> None:
        if batch_size % self.replicas:
            raise UserError(
                f"TRAIN.batch_size={batch_size} cannot be divided among {self.replicas} devices: use a "
                f"multiple of {self.replicas}, or fewer devices (RUNTIME.devices)"
            )

    def build(self, build_graph: Callable) -> SimpleNamespace:
        """Builds the graph on each local replica; returns the first one's, whose optimisers update all."""
        replicas = self.run(build_graph)
        g = replicas[0]
        g.replicas = replicas
        for name in {"g_optim_init", "d_optim", "g_optim"} & vars(g).keys():
            setattr(g, name, tf.group(*(getattr(replica, name) for replica in replicas)))
        g.reset_average = tf.group(*(replica.average.reset for replica in replicas))
        return g

    @staticmethod
    def feed(g: SimpleNamespace, lr: np.ndarray, hr: np.ndarray) -> dict:
        """Returns a feed that splits this host's part of a batch evenly among its replicas."""
        count = len(g.replicas)
        parts = zip(g.replicas, np.split(lr, count), np.split(hr, count))
        return {t: x for r, low, high in parts for t, x in ((r.t_image, low), (r.t_target_image, high))}

    def run(self, function):
        """Runs a function on each replica and returns the results of this host's replicas."""
        return self.strategy.experimental_local_results(self.strategy.run(function))

    def from_chief(self, session: tf.compat.v1.Session, values: list) -> list[np.ndarray]:
        """Returns the chief's values of numbers and variables, on every host."""

        def shared():
            is_first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)
            tensors = [tf.convert_to_tensor(value) for value in values]
            return [sum_of_replicas(tf.where(is_first, t, tf.zeros_like(t))) for t in tensors]

        return session.run(self.run(shared)[0])

    def require_agreement(self, session: tf.compat.v1.Session, facts: dict) -> None:
        """Raises UserError on every host if any host's facts differ from the chief's."""
        if self.hosts == 1:
            return
        facts = {**facts, "device": "", "TensorFlow": tf.__version__}
        texts = [json.dumps(fact, sort_keys=True) for fact in facts.values()]
        mine = np.zeros([self.hosts, len(facts)], np.float32)
        mine[self.host] = [zlib.crc32(text.encode()) % 2**24 for text in texts]
        table = session.run(self.run(lambda: sum_of_replicas(tf.constant(mine)))[0])
        for host, row in enumerate(table):
            if differing := sorted(name for name, same in zip(facts, row == table[0]) if not same):
                raise UserError(
                    f"host {host} differs from host 0 in {', '.join(differing)}: start all with the same "
                    "command on the same images and VGG19 weights"
                )


def connect(settings) -> Cluster:
    """Returns the cluster given by `config.RUNTIME` and TF_CONFIG, without waiting for other hosts.

    Must be called before anything else uses TensorFlow.
    """
    configure(settings)
    resolver, options = _resolver(), session_config(settings)
    gpus = tf.config.list_physical_devices("GPU")
    if resolver is None:
        if gpus and settings.devices > len(gpus):
            raise UserError(f"RUNTIME.devices is {settings.devices}, but this machine has {len(gpus)} GPUs")
        kind, count = ("gpu", len(gpus)) if gpus else ("cpu", 1)
        devices = [f"/{kind}:{number}" for number in range(settings.devices or count)]
        if len(devices) == 1:
            return Cluster(session_config=options)
        return Cluster(tf.distribute.MirroredStrategy(devices), options)
    spec = resolver.cluster_spec()
    jobs = [(job, task) for job in ("chief", "worker") if job in spec.jobs for task in spec.task_indices(job)]
    me = (resolver.task_type, resolver.task_id)
    if me not in jobs:
        raise UserError(f"TF_CONFIG: the task {me[0]} {me[1]} is neither a chief nor a worker of its cluster")
    if settings.devices:
        gpus = gpus[: settings.devices]
        tf.config.set_visible_devices(gpus, "GPU")
        options.gpu_options.visible_device_list = ",".join(map(str, range(len(gpus))))
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    options = strategy.update_config_proto(options)
    server = tf.distribute.Server(spec, *me, config=options)
    return Cluster(strategy, options, jobs.index(me), len(jobs), server.target)


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Returns the cluster resolver for TF_CONFIG, or None if this host trains alone."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        if sum(len(tasks) for tasks in cluster.values()) < 2:
            return None
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if resolver.task_id is None:
            raise KeyError("task")
        return resolver
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"TF_CONFIG cannot be understood: {error}") from None
