"""A server whose delays are known: what a load test of it has to find.

It answers `/readyz`, `/variants` and `POST /classify?variant=NAME` as the service does, after a delay that it draws.
How long it really took, from the whole request (with `--capacity`: from its turn in the queue) to the answer, is at
`GET /delays`; `POST /delays/reset` forgets that. Failures are counted like answers.
"""
