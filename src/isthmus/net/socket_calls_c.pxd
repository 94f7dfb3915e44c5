# What socket_calls.py has, for compiled files: see there.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno


cdef extern from "<sys/socket.h>":
    ssize_t recv(int fd, void *into, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)


cdef inline bytes read(object link, int fd, bytearray buffer):
    cdef char *into = PyByteArray_AS_STRING(buffer)
    cdef ssize_t size
    while True:
        size = recv(fd, into, PyByteArray_GET_SIZE(buffer), 0)
        if size >= 0:
            return PyBytes_FromStringAndSize(into, size)
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()


cdef inline Py_ssize_t write(object link, int fd, bytes data) except -1:
    cdef ssize_t sent
    while True:
        sent = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), 0)
        if sent >= 0:
            return sent
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()
