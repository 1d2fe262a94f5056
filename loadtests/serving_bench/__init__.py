"""What HTTP costs: this service beside a bare server, other frameworks, and no server at all."""
