"""What runs in the pods of the kubelet's tests."""
