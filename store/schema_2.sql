-- Schema 2. session.state_seal is also over where the session comes from: origin and origin_name.
-- session_seal is a function of this program (store/sqlite/session.c), with what is sealed for
-- arguments. A row that was damaged before keeps a seal that fits to nothing.
UPDATE session SET state_seal = session_seal(flags, held_reason, applied, origin, origin_name)
WHERE state_seal = session_seal(flags, held_reason, applied);
