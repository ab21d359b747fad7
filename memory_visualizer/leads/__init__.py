"""Leads: what an analyst should look at first, each with its reason and its pages."""

from memory_visualizer.leads.lead import LEADS, Lead, Leads
from memory_visualizer.leads.search import all_leads, known_leads, leads_so_far
from memory_visualizer.leads.writable import writable_pages

__all__ = ["LEADS", "Lead", "Leads", "all_leads", "known_leads", "leads_so_far", "writable_pages"]
