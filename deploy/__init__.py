"""From a bento to containers, one host and a cluster."""
