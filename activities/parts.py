"""What the steps of one process are built of: a worker's activities, and the steps that a gateway runs inline."""

from activities.candidates import Candidates
from activities.conversation.context import ConversationSteps
from activities.conversation.memory import ConversationMemory
from activities.embedding import EmbeddingStep
from activities.generate.deciding import GenerateDecisions
from activities.generate.paid_steps import GeneratePaidSteps
from activities.knowledge import KnowledgeSearch
from activities.metrics import Metrics
from activities.paid_call import PaidCalls
from activities.paid_submissions import PaidSubmissions
from activities.speech import SpeechStep
from activities.workspaces import Workspaces
from parley.domain.errors import InvalidInput
from parley.embedder import Embedder, is_installed, process_embedder
from parley.providers.registry import Providers
from parley.settings import Settings, variable
from parley.storage.database import Database
from parley.streams.hub import PROCESS_HUB, SinkSource


class Parts:
    """The parts that steps share: the providers, the paid calls, the candidates, the policy and the metrics.

    sinks: where the deltas of an answer go; default: to readers in this process.

    Raises:
        InvalidInput: the policy file cannot be read, or is invalid.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        metrics: Metrics | None = None,
        sinks: SinkSource = PROCESS_HUB.sink,
    ) -> None:
        self._sinks = sinks
        self.database, self.settings, self.metrics = database, settings, metrics or Metrics()
        self.policy = settings.policy()
        self._providers, self.workspaces = Providers(settings), Workspaces(database)
        self.paid_calls = PaidCalls(database, settings, self.workspaces, self._providers, self.metrics)
        self.paid_submissions = PaidSubmissions(database, settings, self.workspaces, self._providers, self.metrics)
        self.candidates = Candidates(database, settings, self.workspaces, self._providers.access)

    def generate_decisions(self) -> GenerateDecisions:
        energy = self.settings.starting_energy
        return GenerateDecisions(self.database, self.candidates, self.policy, energy, self.metrics)

    def generate_paid_steps(self) -> GeneratePaidSteps:
        return GeneratePaidSteps(self.database, self.paid_calls, self.metrics, self._sinks)

    def embedding_step(self) -> EmbeddingStep:
        return EmbeddingStep(self.database, self.paid_calls, self.policy, self.settings.starting_energy)

    def speech_step(self) -> SpeechStep:
        return SpeechStep(self.database, self.paid_calls, self.policy, self.settings.starting_energy)

    def conversation_memory(self) -> ConversationMemory:
        """Raises InvalidInput where the settings ask for vectors, and the extra for them is not installed."""
        return ConversationMemory(self.database, self.paid_calls, self.embedder())

    def knowledge_search(self) -> KnowledgeSearch:
        """Raises InvalidInput as `conversation_memory` does."""
        return KnowledgeSearch(self.embedder())

    def embedder(self) -> Embedder | None:
        """Computes vectors in this process; None: words are compared."""
        mode = self.settings.memory_vectors
        if mode == "local" and not is_installed():
            problem = "is local: install 'parley[local-embeddings]', or set it to auto or off"
            raise InvalidInput(problem, where=variable("memory_vectors"))
        return process_embedder() if mode != "off" and is_installed() else None

    def conversation_steps(self) -> ConversationSteps:
        """Raises InvalidInput as `conversation_memory` does."""
        memory, knowledge = self.conversation_memory(), self.knowledge_search()
        return ConversationSteps(self.database, self.policy, memory, knowledge, self.generate_decisions())

    async def close(self) -> None:
        """Close the connections to the providers."""
        await self._providers.close()
