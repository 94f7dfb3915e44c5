import cython

from isthmus.delivery cimport framing_c as framing
from isthmus.delivery.queue cimport Queued
from isthmus.delivery.receipt cimport Receipt


cpdef bytes record(int first, bytes topic, bytes properties, bytes payload, object expires)
@cython.locals(first=int, at=Py_ssize_t, topic_end=Py_ssize_t, begin=Py_ssize_t, length=Py_ssize_t)
cpdef Queued message(bytes found, Receipt receipt, int flags=*)
