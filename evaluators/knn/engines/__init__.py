"""What finds candidates for the nearest neighbours: FAISS on the CPU, FAISS on GPUs, matrix products in torch."""
