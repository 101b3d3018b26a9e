-- Schema 3. A session of the tenant '' is an import that is not whole: nobody can ask for it. It
-- stands in orphan under its negative id, beside the uploads, and ends as they do: its rows are
-- swept, or it gets its names and is there. The tables are those of schema 2, but a program that
-- knows no such sessions would keep them for ever.
SELECT 1;
