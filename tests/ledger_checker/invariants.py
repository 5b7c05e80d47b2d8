"""What must hold at every commit, as constraint triggers of the checker's own database, and a clock that it sets.

The triggers are deferred: PostgreSQL runs them inside COMMIT, when the transaction has made all its changes and holds
its locks. A violation aborts the transaction with the SQLSTATE `VIOLATION`. The product's schema has none of this.
"""

import psycopg

VIOLATION = "PV001"
# The tables of the ledger: a transaction that changes one of them is checked.
CHECKED = (
    "attempts",
    "ai_usage_logs",
    "budgets",
    "energy_accounts",
    "energy_entries",
    "outbox",
    "paid_requests",
    "replies",
    "spending_caps",
)
# What an ended or open attempt counts in dollars.
BOOKED = "CASE WHEN t.state = 'open' OR t.cost_usd IS NULL THEN t.upper_bound_usd ELSE t.cost_usd END"
# An open attempt is written by its claim only: one that this transaction wrote was claimed by it.
CLAIMED = "t.state = 'open' AND t.xmin = pg_current_xact_id()::xid"

# Each query yields the subjects that break the rule.
INVARIANTS: dict[str, str] = {
    "a claim stays within its job's envelope": f"""
        SELECT b.scope FROM attempts t JOIN paid_requests c USING (workspace_id, request_id)
        JOIN budgets b ON (b.workspace_id, b.scope) = (c.workspace_id, 'job:' || c.job_key)
        WHERE {CLAIMED} AND b.reserved_usd + b.confirmed_usd + b.uncertain_usd > b.cap_usd""",
    # The claim's day is locked when it compares. On another day of the period, a cost above its bound may be booked
    # between the comparison and the commit.
    "a claim stays within every cap": f"""
        SELECT s.period || ' of ' || t.started_at FROM attempts t JOIN spending_caps s USING (workspace_id)
        CROSS JOIN LATERAL (SELECT date_trunc(s.period, t.started_at AT TIME ZONE 'UTC')::date AS begins) p
        CROSS JOIN LATERAL (SELECT (p.begins + ('1 ' || s.period)::interval)::date AS ends) e
        CROSS JOIN LATERAL (
            SELECT sum(reserved_usd + confirmed_usd + uncertain_usd) AS usd FROM budgets b
            WHERE b.workspace_id = t.workspace_id AND b.scope >= 'day:' || p.begins AND b.scope < 'day:' || e.ends
        ) spent
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(x.cost_usd - x.upper_bound_usd), 0) AS usd FROM attempts x
            WHERE x.workspace_id = t.workspace_id AND x.cost_usd > x.upper_bound_usd
              AND (x.started_at AT TIME ZONE 'UTC')::date <> (t.started_at AT TIME ZONE 'UTC')::date
              AND (x.started_at AT TIME ZONE 'UTC')::date >= p.begins
              AND (x.started_at AT TIME ZONE 'UTC')::date < e.ends
        ) above
        WHERE {CLAIMED} AND spent.usd > s.cap_usd + above.usd""",
    "an envelope is what its attempts are booked at": """
        SELECT coalesce(b.scope, a.scope) || ': ' || concat_ws(' / ', b.reserved_usd, b.confirmed_usd, b.uncertain_usd)
               || ', attempts ' || concat_ws(' / ', a.reserved, a.confirmed, a.uncertain)
        FROM budgets b FULL JOIN (
            SELECT t.workspace_id, s.scope,
                   coalesce(sum(t.upper_bound_usd) FILTER (WHERE t.state = 'open'), 0) AS reserved,
                   coalesce(sum(t.cost_usd) FILTER (WHERE t.state <> 'open'), 0) AS confirmed,
                   coalesce(sum(t.upper_bound_usd) FILTER (WHERE t.state <> 'open' AND t.cost_usd IS NULL), 0)
                       AS uncertain
            FROM attempts t JOIN paid_requests c USING (workspace_id, request_id)
            CROSS JOIN LATERAL (VALUES ('job:' || c.job_key), ('day:' || (t.started_at AT TIME ZONE 'UTC')::date))
                AS s(scope)
            GROUP BY 1, 2) a USING (workspace_id, scope)
        WHERE (coalesce(b.reserved_usd, 0), coalesce(b.confirmed_usd, 0), coalesce(b.uncertain_usd, 0))
              IS DISTINCT FROM (coalesce(a.reserved, 0), coalesce(a.confirmed, 0), coalesce(a.uncertain, 0))""",
    "an ended attempt's usage row has its cost": f"""
        SELECT t.id || ' costs ' || {BOOKED} || ', its row ' || coalesce(u.cost_usd::text, 'is missing')
        FROM attempts t LEFT JOIN ai_usage_logs u ON u.attempt_id = t.id
        WHERE t.state <> 'open' AND ({BOOKED} <> coalesce(u.cost_usd, 0) OR u.outcome <> t.state
                                     OR u.confirmed <> (t.cost_usd IS NOT NULL)
                                     OR (u.attempt_id IS NULL AND t.billed <> 'no'))""",
    "a usage row belongs to an ended attempt": """
        SELECT u.attempt_id::text FROM ai_usage_logs u
        WHERE NOT EXISTS (SELECT 1 FROM attempts t WHERE t.id = u.attempt_id AND t.state <> 'open')""",
    "a usage total is its job's envelope": """
        SELECT b.scope FROM budgets b
        WHERE b.scope LIKE 'job:%' AND b.confirmed_usd + b.uncertain_usd IS DISTINCT FROM (
            SELECT coalesce(sum(u.cost_usd), 0) FROM ai_usage_logs u
            WHERE (u.workspace_id, 'job:' || u.job_key) = (b.workspace_id, b.scope))""",
    "energy is never negative": """
        SELECT a.user_id FROM energy_accounts a
        WHERE least(a.granted, a.charged, a.reserved, a.granted - a.charged - a.reserved) < 0""",
    "an energy account is the sum of its entries": """
        SELECT a.user_id || ': ' || concat_ws(' / ', a.granted, a.charged, a.reserved) || ', entries '
               || concat_ws(' / ', e.granted, e.charged, e.reserved)
        FROM energy_accounts a CROSS JOIN LATERAL (
            SELECT coalesce(sum(amount) FILTER (WHERE kind = 'grant'), 0) AS granted,
                   coalesce(sum(amount) FILTER (WHERE kind = 'charge'), 0) AS charged,
                   coalesce(sum(CASE kind WHEN 'reserve' THEN amount WHEN 'grant' THEN 0 ELSE -amount END), 0)
                       AS reserved
            FROM energy_entries e WHERE (e.workspace_id, e.user_id) = (a.workspace_id, a.user_id)) e
        WHERE (a.granted, a.charged, a.reserved) IS DISTINCT FROM (e.granted, e.charged, e.reserved)""",
    "reserved energy belongs to requests with an owner": """
        SELECT a.user_id FROM energy_accounts a
        WHERE a.reserved IS DISTINCT FROM (
            SELECT coalesce(sum(c.energy_reserved), 0) FROM paid_requests c
            WHERE (c.workspace_id, c.user_id) = (a.workspace_id, a.user_id))
        UNION ALL
        SELECT c.request_id FROM paid_requests c
        WHERE c.energy_reserved <> 0 AND (c.owner_attempt_id IS NULL OR c.state = 'settled')""",
    "a result is charged at most once": """
        SELECT coalesce(c.result_id, c.request_id)
        FROM energy_entries e JOIN paid_requests c USING (workspace_id, request_id)
        WHERE e.kind = 'charge' GROUP BY c.workspace_id, coalesce(c.result_id, c.request_id) HAVING count(*) > 1""",
    "only a settled request is charged, at its price": """
        SELECT c.request_id FROM paid_requests c CROSS JOIN LATERAL (
            SELECT coalesce(sum(e.amount), 0) AS energy FROM energy_entries e
            WHERE (e.workspace_id, e.request_id, e.kind) = (c.workspace_id, c.request_id, 'charge')) paid
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(u.energy_charged), 0) AS energy FROM ai_usage_logs u
            WHERE (u.workspace_id, u.request_id) = (c.workspace_id, c.request_id)) logged
        WHERE paid.energy <> logged.energy
           OR paid.energy NOT IN (0, CASE c.state WHEN 'settled' THEN c.energy_price ELSE 0 END)""",
    "a settled request has one winner, its reply and its event; an open one has none": """
        SELECT c.request_id || ' is ' || c.state || ': ' || concat_ws('/', n.won, n.named, n.replies, n.events)
        FROM paid_requests c CROSS JOIN LATERAL (
            SELECT (SELECT count(*) FROM attempts t WHERE (t.workspace_id, t.request_id)
                        = (c.workspace_id, c.request_id) AND t.state = 'settled') AS won,
                   (SELECT count(*) FROM attempts t WHERE t.id = c.settled_attempt_id AND t.state = 'settled') AS named,
                   (SELECT count(*) FROM replies r JOIN attempts t ON t.id = r.attempt_id
                    WHERE (t.workspace_id, t.request_id) = (c.workspace_id, c.request_id)) AS replies,
                   (SELECT count(*) FROM outbox o JOIN attempts t ON t.id = o.attempt_id
                    WHERE (t.workspace_id, t.request_id) = (c.workspace_id, c.request_id)
                      AND o.kind = 'ai_generation_completed') AS events) n
        WHERE (n.won, n.named, n.replies, n.events) IS DISTINCT FROM
              CASE c.state WHEN 'settled' THEN (1::bigint, 1::bigint, 1::bigint, 1::bigint)
                           ELSE (0::bigint, 0::bigint, 0::bigint, 0::bigint) END""",
    "an open request has no duplicate": """
        SELECT c.request_id FROM paid_requests c JOIN attempts t USING (workspace_id, request_id)
        WHERE c.state = 'open' AND t.state = 'duplicate'""",
    "an open attempt owns its request": """
        SELECT t.id::text FROM attempts t JOIN paid_requests c USING (workspace_id, request_id)
        WHERE t.state = 'open' AND t.id IS DISTINCT FROM c.owner_attempt_id
        UNION ALL
        SELECT c.request_id FROM paid_requests c
        WHERE c.owner_attempt_id IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.id = c.owner_attempt_id AND t.state = 'open')""",
    "a cost above its bound has an event": """
        SELECT t.id::text FROM attempts t
        WHERE t.cost_usd > t.upper_bound_usd
          AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.kind = 'ai_cost_above_bound'
                            AND o.attempt_id = t.id)""",
}

# Each is the condition under which a change of a row breaks the rule.
STEPS: dict[str, dict[str, str]] = {
    "attempts": {
        "an attempt's state does not go back": """
            NEW.state <> OLD.state AND NOT CASE OLD.state
                WHEN 'open' THEN true
                WHEN 'lost' THEN NEW.state IN ('settled', 'duplicate', 'failed')
                WHEN 'failed' THEN NEW.state IN ('settled', 'duplicate')
                ELSE false END""",
        "a confirmed cost stays confirmed": "OLD.cost_usd IS NOT NULL AND NEW.cost_usd IS NULL",
        # What was released is not reserved any more, so that it may overdraw a cap. A cost above its bound may.
        "an ended attempt's cost does not rise within its bound": """
            OLD.state <> 'open' AND coalesce(NEW.cost_usd, NEW.upper_bound_usd) <= NEW.upper_bound_usd
            AND coalesce(NEW.cost_usd, NEW.upper_bound_usd) > coalesce(OLD.cost_usd, OLD.upper_bound_usd)""",
        "what an attempt is stays": """
            (NEW.workspace_id, NEW.request_id, NEW.number, NEW.provider, NEW.model, NEW.upper_bound_usd, NEW.started_at)
            IS DISTINCT FROM
            (OLD.workspace_id, OLD.request_id, OLD.number, OLD.provider, OLD.model, OLD.upper_bound_usd,
             OLD.started_at)""",
    },
    "paid_requests": {
        "a settled request stays settled, by its winner": """
            OLD.state = 'settled' AND (NEW.state, NEW.settled_attempt_id)
                IS DISTINCT FROM (OLD.state, OLD.settled_attempt_id)""",
        "what a request is stays": """
            (NEW.job_key, NEW.user_id, NEW.fingerprint, NEW.result_id, NEW.energy_price) IS DISTINCT FROM
            (OLD.job_key, OLD.user_id, OLD.fingerprint, OLD.result_id, OLD.energy_price)""",
        # Unless the transaction's claim says that it supersedes the owner, and takes the lease from it.
        "a lease that is held is not taken over": """
            NEW.owner_attempt_id IS DISTINCT FROM OLD.owner_attempt_id AND OLD.lease_until > clock_timestamp()
            AND (NEW.owner_attempt_id IS NOT NULL
                 OR OLD.owner_attempt_id::text IS DISTINCT FROM current_setting('checker.superseded', true))
            AND EXISTS (SELECT 1 FROM attempts t WHERE t.id = OLD.owner_attempt_id AND t.state = 'lost')""",
    },
    "replies": {"a journaled reply stays": "NEW IS DISTINCT FROM OLD"},
    "energy_entries": {"an entry of energy stays": "NEW IS DISTINCT FROM OLD"},
    "generations": {
        "an answered generation stays answered": "OLD.outcome = 'completed' AND NEW.outcome <> 'completed'"
    },
}
# What the triggers count. A sequence keeps its value when a transaction is rolled back, so it is read at the end.
COUNTED = ("commits", "lost", "late")

# Unqualified names are found here before pg_catalog: the ledger's clock is the checker's. It moves by a microsecond
# each time that it is read, so that no two moments are the same.
CLOCK = """
    CREATE SCHEMA checker;
    CREATE TABLE checker.clock (moment timestamptz NOT NULL);
    INSERT INTO checker.clock VALUES ('2027-01-01Z');
    CREATE SEQUENCE checker.readings;
    CREATE FUNCTION checker.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
        AS $$SELECT moment + nextval('checker.readings') * interval '1 microsecond' FROM checker.clock$$;
    CREATE FUNCTION checker.now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT checker.clock_timestamp()';"""
CHECK_COMMIT = """
    CREATE FUNCTION checker.check_commit() RETURNS trigger LANGUAGE plpgsql AS $check$
    DECLARE broken text; transaction text := pg_current_xact_id()::text;
    BEGIN
        -- The first trigger of a transaction checks it: all of its changes are made.
        IF current_setting('checker.checked', true) IS NOT DISTINCT FROM transaction THEN RETURN NULL; END IF;
        PERFORM set_config('checker.checked', transaction, true), nextval('checker.commits');
        SELECT string_agg(rule || ': ' || coalesce(subject, '?'), '; ') INTO broken FROM ({queries}) AS found;
        IF broken IS NOT NULL THEN RAISE EXCEPTION USING ERRCODE = '{violation}', MESSAGE = broken; END IF;
        RETURN NULL;
    END $check$"""
CHECK_STEP = """
    CREATE FUNCTION checker.check_{table}() RETURNS trigger LANGUAGE plpgsql AS $check$
    BEGIN
        {counts}
        {conditions}
        RETURN NULL;
    END $check$"""
COUNT_STATES = """
        IF NEW.state = 'lost' AND OLD.state = 'open' THEN PERFORM nextval('checker.lost'); END IF;
        IF NEW.state IN ('settled', 'duplicate') AND OLD.state IN ('lost', 'failed') THEN
            PERFORM nextval('checker.late');
        END IF;"""


async def install(connection: psycopg.AsyncConnection[object], database: str) -> None:
    """Add the triggers and the clock to a migrated database, for connections that are opened later."""
    queries = "\nUNION ALL\n".join(
        f"SELECT $rule${rule}$rule$ AS rule, subject::text FROM ({query}) AS broken(subject)"
        for rule, query in INVARIANTS.items()
    )
    statements = [
        CLOCK,
        *(f"CREATE SEQUENCE checker.{name} MINVALUE 0 START 0" for name in COUNTED),
        *(f"SELECT nextval('checker.{name}')" for name in COUNTED),
        CHECK_COMMIT.format(queries=queries, violation=VIOLATION),
        *(_deferred("INSERT OR UPDATE OR DELETE", table, "check_commit") for table in CHECKED),
    ]
    for table, rules in STEPS.items():
        conditions = "\n".join(
            f"IF ({condition}) THEN RAISE EXCEPTION USING ERRCODE = '{VIOLATION}', MESSAGE = $rule${rule}: $rule$"
            " || OLD::text || ' became ' || NEW::text; END IF;"
            for rule, condition in rules.items()
        )
        counts = COUNT_STATES if table == "attempts" else ""
        statements += [
            CHECK_STEP.format(table=table, counts=counts, conditions=conditions),
            _deferred("UPDATE", table, f"check_{table}"),
        ]
    statements += [
        f"ALTER DATABASE {database} SET search_path = checker, pg_catalog, public",
        # A deadlock is a violation: find it soon.
        f"ALTER DATABASE {database} SET deadlock_timeout = '20ms'",
    ]
    for statement in statements:
        await connection.execute(statement.encode())


def _deferred(events: str, table: str, function: str) -> str:
    return (
        f"CREATE CONSTRAINT TRIGGER {function} AFTER {events} ON public.{table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION checker.{function}()"
    )
