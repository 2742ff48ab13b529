/* Stands in for the wheel's libggml-sycl.so, which aborts without an Intel GPU and needs 300 MB of MKL and oneDNN.
   On a CPU the server and its runner call no more of it than this: "how many devices?" - "none". */
int ggml_backend_sycl_get_device_count(void) { return 0; }
void *ggml_backend_sycl_init(int device) { (void)device; return 0; }
void *ggml_backend_sycl_buffer_type(int device) { (void)device; return 0; }
