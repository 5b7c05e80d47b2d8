"""Search attributes: what an operator can filter workflows by. Registered when a cluster is set up."""

from temporalio.common import SearchAttributeKey

TENANT = SearchAttributeKey.for_keyword("ParleyTenant")
JOB = SearchAttributeKey.for_keyword("ParleyJob")
STRATEGY = SearchAttributeKey.for_keyword("ParleyStrategy")
PHASE = SearchAttributeKey.for_keyword("ParleyPhase")
STATUS = SearchAttributeKey.for_keyword("ParleyStatus")

ALL = (TENANT, JOB, STRATEGY, PHASE, STATUS)
