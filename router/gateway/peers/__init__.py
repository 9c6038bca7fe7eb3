"""Gateways before the same workers, and processes of one: what each has sent, told to the others.

`lines` is what they say, `sends` what this process tells, `telling` the endpoint where it does,
`heard` what another one has told, `peers` what all of them have, `hearing` whom this process
listens to, by which `ears`, and `service` makes it all. Knows no plan: what is heard is part of a
worker's load, and of what its cache will hold.
"""
