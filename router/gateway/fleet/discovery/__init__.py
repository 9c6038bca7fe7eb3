"""Who the workers are: a list, a name's addresses, a Kubernetes Service's pods."""
