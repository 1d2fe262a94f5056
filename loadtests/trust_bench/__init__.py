"""Whether load tests find what is known: injected delays, a stall, no difference, a difference of 5 %, a capacity."""
