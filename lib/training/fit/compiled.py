"""What Keras `fit` is called on for a phase: a network in step with those of other workers, its loss and optimizer."""

from lib.config.fitting import FitConfig
from lib.dataset.sampler import LaneOrder
from lib.models.registry import Network, trained_batch_normalisation
from lib.models.spec import ModelSpec
from lib.training.fit.objective import Objective
from lib.training.fit.phases import phase_optimizer, trained_network
from lib.training.fit.plan import Phase
from lib.training.fit.synchronous import SynchronousModel
from lib.training.workers.peers import Peers


def compiled_model(
    phase: Phase, network: Network, spec: ModelSpec, config: FitConfig, peers: Peers, order: LaneOrder
) -> SynchronousModel:
    """The part of a network that a phase trains, ready for `fit`.

    Args:
        network: Trained in place.
        spec: What it was made from.
        config: How it is fitted.
        peers: The workers.
        order: Of this worker's training images.
    """
    trained = trained_network(phase, network, config)
    model = SynchronousModel(
        trained,
        peers,
        order.part_sizes(config.parts_of_batch),
        objective=Objective(config.label_smoothing, config.mixup, bool(trained_batch_normalisation(trained))),
        phase=phase.number,
    )
    rate = config.learning_rate or spec.learning_rate
    model.compile(optimizer=phase_optimizer(phase, network, config, rate, order.steps), jit_compile=False)
    model.optimizer.build(trained.trainable_variables)
    return model
